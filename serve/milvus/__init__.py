"""An index that lies in Milvus: documents and vectors in one collection, on a cluster or in a file of Milvus Lite.

A document is one entity. Its number, which is the primary key, is made from its id, so that it is put and deleted
without being looked for; its vector is unit, and its values are those of float16, as in every index here: it scores
what it would score in a folder.

Nothing imports pymilvus before a collection is asked for.

    backend.py              A collection as a server or a command holds it
    collection_metadata.py  What a collection says of itself, in its properties
    connection.py           One connection to Milvus
    document_count.py       How many documents a collection holds, known without waiting
    entities.py             documents <-> entities
    expressions.py          filters -> Milvus' own language
    index.py                vectors -> hits
    pymilvus_library.py     pymilvus, in one place
"""

from __future__ import annotations
