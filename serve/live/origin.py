"""Current documents of an index, for commands that read its folder directly.

The folder stays as it was built. Documents that were put later are missing in it, and deleted ones are still there.
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
    """The documents of one version. Version 0 is the index as it was built."""

    version: int
    documents: DocumentStore


@contextmanager
def documents(index: Path, stored: IndexManifest) -> Iterator[DocumentVersion]:
    """Yield the current documents. Writes during the block do not change them.

    Raises UnsafeError for damaged files, MismatchError if INDEX.live has the changes of another index.
    """
    with _changes(index, stored) as connection:
        if connection is not None:
            yield DocumentVersion(database.state(connection).version, DocumentStore(connection))
            return
    with closing(DocumentStore.open(index / DOCUMENTS)) as built:
        yield DocumentVersion(0, built)


def version(index: Path, stored: IndexManifest) -> int:
    """Return the version that `documents` would yield now."""
    with _changes(index, stored) as connection:
        return 0 if connection is None else database.state(connection).version


def require_unchanged(index: Path) -> None:
    """Raise UsageError if an index has later changes. For commands that can read only the folder itself."""
    if version(index, manifest.read(index)):
        raise UsageError(
            f"{changes_folder(index)} has changes that {index} does not contain. This command reads only {index}: it "
            "would miss added documents and use deleted ones. Write an index that contains the changes, and use it: "
            f"`embedship index migrate {index} BUNDLE --out NEW` (BUNDLE may be the bundle of {index})"
        )


@contextmanager
def _changes(index: Path, stored: IndexManifest) -> Iterator[sqlite3.Connection | None]:
    """Yield a connection in a read transaction; None if there are no changes."""
    folder = changes_folder(index)
    if not database.exists(folder):
        yield None
        return
    database.require_valid(folder, index, stored)
    path = folder / DOCUMENTS
    with database.readable(path), closing(database.connect(path, writable=False)) as connection:
        connection.execute("BEGIN")
        yield connection if database.has_changes(connection) else None
