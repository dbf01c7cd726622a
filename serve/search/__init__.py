"""Search: parameters, results, and the interface that every search backend implements.

address.py   Location of an index: a folder or a Milvus collection
backend.py   Search parameters, search results, and the SearchBackend protocol
fusion.py    Fuses vector and keyword hits into one list
grouping.py  Groups rows into documents
"""
