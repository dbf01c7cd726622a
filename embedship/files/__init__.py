"""Files: atomic writes, folders with hashes, and text formats.

atomic_file.py    Writes a file completely or not at all
atomic_folder.py  Writes a folder completely or not at all
json_errors.py    Error messages of the JSON decoder in plain words
jsonl.py          Reads JSON Lines into typed records
qrels.py          Reads relevance judgements in TREC and BEIR format
sealed.py         Folders whose manifest has the hash of every file
"""
