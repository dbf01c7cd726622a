"""Documents of an index: texts, metadata, chunks, filters and keyword search.

changes.py   Puts, deletes and their counts
chunking.py  Splits long documents into chunks
corpus.py    Reads documents from JSON Lines
filters.py   Compiles a search filter to SQL
fulltext.py  Keyword search (BM25) and filter masks
store.py     Document store in SQLite
"""
