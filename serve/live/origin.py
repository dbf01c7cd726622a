"""The documents of an index as they are now, for who reads its folder and not what serves it.

The folder stays as it was built: read alone it lacks what was put since, and still has what was deleted.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from embedship.errors import UsageError
from embedship.serve.documents.store import DOCUMENTS, DocumentStore
from embedship.serve.index import manifest
from embedship.serve.index.manifest import IndexManifest
from embedship.serve.live import changes_folder, database


class DocumentVersion(NamedTuple):
    """Documents of one version, 0: as they were built."""

    version: int
    documents: DocumentStore


@contextmanager
def documents(index: Path, found: IndexManifest) -> Iterator[DocumentVersion]:
    """All of one version until the block ends, whatever is written meanwhile.

    Raises UnsafeError for damaged files, MismatchError where INDEX.live holds the changes of another index.
    """
    with _changes(index, found) as connection:
        if connection is not None:
            yield DocumentVersion(database.state(connection).version, DocumentStore(connection))
            return
    with closing(DocumentStore.open(index / DOCUMENTS)) as built:
        yield DocumentVersion(0, built)


def version(index: Path, found: IndexManifest) -> int:
    """What `documents` would give now."""
    with _changes(index, found) as connection:
        return 0 if connection is None else database.state(connection).version


def refuse(index: Path) -> None:
    """Raise UsageError where there are changes beside an index, for who can read only the folder."""
    if version(index, manifest.read(index)):
        raise UsageError(
            f"{changes_folder(index)} holds changes that {index} itself lacks: what was put since would be missing, "
            f"and what "
            f"was deleted would be back. `embedship index migrate {index} BUNDLE --out NEW` writes an index that holds "
            "them, with the same bundle, too: take that one"
        )


@contextmanager
def _changes(index: Path, found: IndexManifest) -> Iterator[sqlite3.Connection | None]:
    """In a transaction; None where there are none."""
    folder = changes_folder(index)
    if not database.holds(folder):
        yield None
        return
    database.require_valid(folder, index, found)
    path = folder / DOCUMENTS
    with database.readable(path), closing(database.connect(path, writable=False)) as connection:
        connection.execute("BEGIN")
        yield connection if database.changed(connection) else None
