"""Opens an index folder on disk: its files are hashed first, then loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from embedship.bundle import Bundle
from embedship.errors import UnsafeError
from embedship.serve.documents.fulltext import KeywordIndex
from embedship.serve.documents.store import DOCUMENTS, DocumentStore
from embedship.serve.index import Index, IndexSize, manifest
from embedship.serve.index.exact_vectors import ExactVectors
from embedship.serve.index.manifest import IndexManifest


class IndexFolder:
    """An open index folder. Thread-safe. It stays readable when the folder is replaced on disk."""

    def __init__(self, index: Index, documents: DocumentStore, words: KeywordIndex, manifest: IndexManifest) -> None:
        self.index = index
        self.documents = documents
        self.words = words
        self.manifest = manifest

    @classmethod
    def open(cls, folder: Path, bundle: Bundle) -> Self:
        """Open an index that was built with this bundle.

        Every file is hashed before FAISS reads a byte of it. Raises UsageError if there is no index, MismatchError if
        it belongs to another bundle, UnsafeError if a file is missing, changed or unknown, MissingExtra without FAISS.
        """
        stored = manifest.read(folder)
        manifest.require_match(folder, stored, bundle)
        manifest.verify(folder, stored)
        with ExitStack() as on_error:
            documents = on_error.enter_context(closing(DocumentStore.open(folder / DOCUMENTS)))
            _require_every_row(folder, documents, stored)
            words = on_error.enter_context(closing(KeywordIndex.open(folder / DOCUMENTS, stored.size)))
            opened = cls(load(folder, stored), documents, words, stored)
            on_error.pop_all()
            return opened

    @property
    def size(self) -> IndexSize:
        return IndexSize(self.manifest.documents, self.manifest.size)

    @property
    def firsts(self) -> NDArray[np.uint32] | None:
        """For each row the first row of its document; None if every row is a document."""
        return self.documents.firsts

    @contextmanager
    def read_view(self) -> Iterator[Self]:
        """Yield this folder, which never changes. A live index yields its current view instead."""
        yield self

    def close(self) -> None:
        self.words.close()
        self.documents.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _require_every_row(folder: Path, documents: DocumentStore, stored: IndexManifest) -> None:
    """Raise UnsafeError unless each vector has a document: a search could not show the hit otherwise."""
    rows = documents.row_numbers
    if rows != range(stored.size) or documents.size != stored.size:
        raise UnsafeError(
            f"{folder} contradicts itself: {DOCUMENTS} has {documents.size} rows numbered {rows.start} to "
            f"{rows.stop - 1}, but {manifest.MANIFEST} says {stored.size} from 0: build it again"
        )


def load(folder: Path, stored: IndexManifest) -> Index:
    """Return the index of a folder whose files have been hashed. This is the first code that imports FAISS."""
    from embedship.serve.index.kinds import open as open_kind

    truth = ExactVectors.open(folder, (stored.size, stored.dimension))
    return open_kind(folder, truth, stored.recipe, stored.packing, stored.effort)
