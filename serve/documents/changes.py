"""Changes of documents: puts, deletes, and the counts of their effects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

import msgspec
import numpy as np

from embedship.codes import Vectors
from embedship.serve.documents.store import Document, Split


class PutDocument(NamedTuple):
    """A document to add or replace, its chunks (itself if not split), and their unit vectors, (chunks, dim) float32."""

    document: Document
    chunks: Sequence[Document]
    vectors: Vectors


class DeleteDocument(NamedTuple):
    id: str


Change = PutDocument | DeleteDocument


class ChunkedDocuments(NamedTuple):
    """Documents that are about to be embedded, with the chunks of each."""

    documents: Sequence[Document]
    chunks: Sequence[Sequence[Document]]

    @classmethod
    def from_documents(cls, documents: Sequence[Document], split: Split | None) -> Self:
        """`split` is the chunker of the index, None without chunks. Raises UsageError for a title that is too long."""
        return cls(documents, split(documents) if split else [[document] for document in documents])

    @property
    def rows(self) -> list[Document]:
        """All chunks in order: the texts to embed."""
        return [chunk for chunks in self.chunks for chunk in chunks]

    def puts(self, vectors: Vectors) -> list[PutDocument]:
        """Return the changes, from the unit vectors of `rows`, (rows, dim) float32."""
        ends = np.cumsum([len(chunks) for chunks in self.chunks])
        parts = np.split(vectors, ends[:-1])
        return [PutDocument(*each) for each in zip(self.documents, self.chunks, parts, strict=True)]


class ChangeCounts(msgspec.Struct, frozen=True):
    """Number of documents that were added, replaced and deleted."""

    new: int = 0
    replaced: int = 0
    deleted: int = 0

    def __add__(self, other: ChangeCounts) -> ChangeCounts:
        return ChangeCounts(self.new + other.new, self.replaced + other.replaced, self.deleted + other.deleted)
