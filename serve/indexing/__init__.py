"""Indexing.

build.py           Corpus -> index folder
bulk_embedding.py  The documents of an index as the texts of a bulk run, and the shards of that run as their vectors
embedding.py       Documents -> unit vectors, with the prompts that sentence-transformers would pick
goals.py           Build by goal
measure.py         Recall@k of an index against exact search over the same vectors
migrate.py         An index -> the same documents embedded by another bundle, beside the old one, until it is whole
milvus.py          A corpus -> a collection, whole or not at all
requantise.py      An index -> another kind of index over the same vectors
update.py          A file of changes into an index, in batches
goals_page/
"""
