"""Changes of documents: what is put and deleted, and how many were."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

import msgspec
import numpy as np

from embedship.codes import Vectors
from embedship.serve.documents.store import Document, Split


class PutDocument(NamedTuple):
    """A document, its chunks, and their unit vectors, (chunks, dim) float32; one that stays whole is its only chunk."""

    document: Document
    chunks: Sequence[Document]
    vectors: Vectors


class DeleteDocument(NamedTuple):
    id: str


Change = PutDocument | DeleteDocument


class ChunkedDocuments(NamedTuple):
    """Documents on their way to their vectors, and the chunks of each."""

    documents: Sequence[Document]
    chunks: Sequence[Sequence[Document]]

    @classmethod
    def of(cls, documents: Sequence[Document], split: Split | None) -> Self:
        """`split` is that of the index. Raises UsageError for a title that leaves no room for text."""
        return cls(documents, split(documents) if split else [[document] for document in documents])

    @property
    def rows(self) -> list[Document]:
        """What is embedded, in order."""
        return [chunk for chunks in self.chunks for chunk in chunks]

    def puts(self, vectors: Vectors) -> list[PutDocument]:
        """Of the unit vectors of `rows`."""
        ends = np.cumsum([len(chunks) for chunks in self.chunks])
        parts = np.split(vectors, ends[:-1])
        return [PutDocument(*each) for each in zip(self.documents, self.chunks, parts, strict=True)]


class ChangeCounts(msgspec.Struct, frozen=True):
    """What came of changes: documents of which there were none before, that were others before, that are gone."""

    new: int = 0
    replaced: int = 0
    deleted: int = 0

    def __add__(self, other: ChangeCounts) -> ChangeCounts:
        return ChangeCounts(self.new + other.new, self.replaced + other.replaced, self.deleted + other.deleted)
