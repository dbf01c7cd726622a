"""An index on disk, opened: hashed first, then loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from embedship.bundle import Bundle
from embedship.serve.documents.fulltext import KeywordIndex
from embedship.serve.documents.store import DOCUMENTS, DocumentStore
from embedship.serve.index import Index, IndexSize, manifest
from embedship.serve.index.exact_vectors import ExactVectors
from embedship.serve.index.manifest import IndexManifest


class IndexFolder:
    """Thread-safe. What is open stays readable when the folder is replaced on disk."""

    def __init__(self, index: Index, documents: DocumentStore, words: KeywordIndex, manifest: IndexManifest) -> None:
        self.index = index
        self.documents = documents
        self.words = words
        self.manifest = manifest

    @classmethod
    def open(cls, folder: Path, bundle: Bundle) -> Self:
        """Open an index that was built with this bundle.

        Every file is hashed before FAISS reads a byte of it. Raises UsageError if there is no index, MismatchError if
        it belongs to another bundle, UnsafeError if a file is missing, changed or foreign, MissingExtra without FAISS.
        """
        found = manifest.read(folder)
        manifest.require_match(folder, found, bundle)
        manifest.verify(folder, found)
        with ExitStack() as on_error:
            documents = on_error.enter_context(closing(DocumentStore.open(folder / DOCUMENTS)))
            words = on_error.enter_context(closing(KeywordIndex.open(folder / DOCUMENTS, found.size)))
            opened = cls(load(folder, found), documents, words, found)
            on_error.pop_all()
            return opened

    @property
    def size(self) -> IndexSize:
        return IndexSize(self.manifest.documents, self.manifest.size)

    @property
    def firsts(self) -> NDArray[np.uint32] | None:
        """For each row the first row of its document; None where every row is a document."""
        return self.documents.firsts

    @contextmanager
    def moment(self) -> Iterator[Self]:
        """Itself, which never changes; a live index gives what it holds at this moment."""
        yield self

    def close(self) -> None:
        self.words.close()
        self.documents.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def load(folder: Path, found: IndexManifest) -> Index:
    """The index of a folder whose files have been hashed. FAISS is not imported before this."""
    from embedship.serve.index.kinds import open as opened

    truth = ExactVectors.open(folder, (found.size, found.dimension))
    return opened(folder, truth, found.recipe, found.packing, found.effort)
