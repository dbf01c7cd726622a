"""Milvus backend: an index in a Milvus collection, on a cluster or in a file of Milvus Lite.

A document is one entity. Its primary key is computed from its id, so that no lookup is needed to write or delete it.
Its vector has unit length and values rounded to float16, as in an index folder, so that the scores are the same.

pymilvus is imported only when a collection is opened.

    backend.py              Searches, reads and changes a collection
    collection_metadata.py  Metadata of a collection: its model, prompts and kind of index
    connection.py           Connection with timeouts, which fails at once while the server is unreachable
    document_count.py       Cached number of documents
    entities.py             Converts documents to entities and back
    expressions.py          Converts search filters to Milvus expressions
    index.py                Vector search: ranks the candidates that Milvus finds
    pymilvus_library.py     Imports pymilvus
"""

from __future__ import annotations
