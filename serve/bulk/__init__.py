"""Bulk encoding: encodes a file of texts into shards of vectors, on this machine or on a Ray cluster.

formats.py      Output formats of a shard: .npy and Parquet
manifest.py     Records of a run: options, plan, shards, manifest
ray_cluster.py  Pool of encoders on the nodes of a Ray cluster
ray_session.py  Joins a Ray cluster, or starts one and stops it at the end
ray_worker.py   Ray actor that runs an encoder on a node
run.py          The run: plans, encodes and writes shards, and continues a stopped run
shards.py       Encodes one shard; pool with the encoder of this process
source.py       Reads and validates the input texts
storage.py      Location of the input: a local file or an S3 object
"""
