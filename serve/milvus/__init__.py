"""An index that lies in Milvus: documents and vectors in one collection, on a cluster or in a file of Milvus Lite.

A document is one entity. Its number, which is the primary key, is made from its id, so that it is put and deleted
without being looked for; its vector is unit, and its values are those of float16, as in every index here: it scores
what it would score in a folder.

    address.py      milvus://HOST:PORT/COLLECTION
    library.py      pymilvus, imported
    line.py         a connection that fails fast, and mends by itself
    card.py         what a collection says of itself: the model, the prompts
    entities.py     documents <-> entities
    expressions.py  filters -> Milvus' own language
    index.py        vectors -> hits
    tally.py        how many documents there are
    collection.py   all of it, for a server or a command
    load.py         a corpus -> a collection
    cli.py          that, as `embedship index` does it

Nothing imports pymilvus before a collection is asked for.
"""

from __future__ import annotations
