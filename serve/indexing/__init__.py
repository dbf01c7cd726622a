"""Indexing: builds, migrates and updates indexes from corpora.

build.py           Builds an index folder from a corpus
bulk_embedding.py  Embeds the documents of an index with a bulk run
embedding.py       Embeds documents and queries as unit vectors
goals.py           Build by goal: measures candidate recipes and chooses one
measure.py         Measures recall@k of an index against exact search
migrate.py         Embeds the documents of an index with another bundle
milvus.py          Loads a corpus into a Milvus collection
requantise.py      Builds another kind of index from existing exact vectors
update.py          Applies a file of changes to an index
goals_page/        HTML report of a build by goal
"""
