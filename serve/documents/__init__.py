"""Documents.

changes.py   Changes of documents
chunking.py  Long documents -> chunks that the model reads whole, cut with its own tokenizer
corpus.py    A corpus
filters.py   `filter` of a search
fulltext.py  Keyword search and filters over documents.sqlite
store.py     What the rows of an index are
"""
