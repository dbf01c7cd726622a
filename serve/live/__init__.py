"""An index that takes changes: an immutable snapshot, and what was put and deleted since.

Beside the folder INDEX, which stays as it was built, lies INDEX.live:

    documents.sqlite    every document as it is now, its words and facts, and what changed since the snapshot (WAL)
    gen-000001/         the snapshot that a compaction made: vectors and what searches them, sealed by hashes
    lock                held by the one process that writes

A change is acknowledged when its transaction is on the disk. A search opens a transaction of its own, and sees the
snapshot, without what is gone, and the vectors put since (compared one by one): all of one version. A compaction writes
the next snapshot beside the old one, and one transaction makes it the one that counts.

    backend.py     Documents and vectors in a folder of this machine
    changes.py     documents put and deleted, in one transaction
    compaction.py  when, and what if it fails
    database.py    the file: made, opened, its state
    index.py       all of it, for a server or a command
    lock.py        One process writes
    origin.py      for who reads INDEX: what has changed since
    snapshot.py    the immutable part: opened, made, swept
    view.py        snapshot + changes at one version: searched
"""

from __future__ import annotations

from pathlib import Path

SUFFIX = ".live"


def changes_folder(index: Path) -> Path:
    """INDEX.live of an index."""
    index = index.resolve()
    return index.with_name(index.name + SUFFIX)
