"""A mutable index: an immutable snapshot, and the documents put and deleted after it.

The folder INDEX stays as it was built. The changes are in the folder INDEX.live next to it:

    documents.sqlite    all current documents, their words and metadata, and the changes since the snapshot (with a WAL)
    gen-000001/         a snapshot written by a compaction: vectors and search structures, with file hashes
    lock                locked by the one process that writes

A change is acknowledged when its transaction is on disk. A search runs in its own read transaction. It searches the
snapshot without deleted rows, and compares the fresh vectors one by one, all at one version. A compaction writes the
next snapshot next to the old one, and one transaction makes it the current one.

backend.py     FolderBackend: searches an index folder, mutable or not
changes.py     Puts and deletes documents in one transaction
compaction.py  Decides when to compact, and retries after a failure
database.py    documents.sqlite: creates, opens and checks it, and reads its state
index.py       MutableIndex: combines these parts for a server or a command
lock.py        The lock of the writing process
origin.py      Current documents, for commands that read the folder INDEX directly
snapshot.py    The immutable part: opens, writes and removes snapshots
view.py        Searches snapshot and changes at one version
"""

from __future__ import annotations

from pathlib import Path

SUFFIX = ".live"


def changes_folder(index: Path) -> Path:
    """Return the path of INDEX.live for an index."""
    index = index.resolve()
    return index.with_name(index.name + SUFFIX)
