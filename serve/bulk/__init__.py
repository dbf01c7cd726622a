"""Bulk.

formats.py      The files of a bulk run
manifest.py     What a bulk run writes down about itself
ray_cluster.py  Bulk encoding on a Ray cluster
ray_session.py  Joining a Ray cluster, or starting one on this machine for as long as it is needed
ray_worker.py   The encoder of a node, wherever that is
run.py          Texts -> shards of vectors in a folder, so that a run killed at any point goes on and ends with
shards.py       Texts -> the bytes of a shard, and who computes them
source.py       The texts of a bulk run
storage.py      Where the input of a bulk run lies
"""
