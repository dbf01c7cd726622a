"""Files.

atomic_file.py    One file, written whole or not at all
atomic_folder.py  A folder that appears whole or not at all
jsonl.py          JSON Lines in, typed records out
qrels.py          Judgements of a retrieval test, as TREC and BEIR write them
sealed.py         A folder sealed by its manifest
"""
