"""Search.

address.py   Where a collection lies
backend.py   What a search is asked, what it found, and what a shelf asks of the place where documents and
fusion.py    Dense and keyword hits -> one list
grouping.py  Rows -> documents
"""
