"""Documents that a comparison searches: indexes of OLD and NEW, or a corpus that both encode."""

from __future__ import annotations

from collections.abc import Sequence, Set
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, Self

import numpy as np

from embedship import ranking
from embedship.bundle import Similarity
from embedship.codes import Vectors, normalise
from embedship.encoder import Encoder
from embedship.errors import UsageError
from embedship.serve.compare.rankings import K, Rankings
from embedship.serve.documents.corpus import CorpusFile
from embedship.serve.index.exact_vectors import ExactVectors
from embedship.serve.index.folder import IndexFolder
from embedship.serve.indexing.embedding import text_of
from embedship.serve.live import origin
from embedship.serve.progress import bar
from embedship.serve.search.grouping import ChunkGrouping


class RankedSource(Protocol):
    """Documents that OLD or NEW searches."""

    @property
    def ids(self) -> frozenset[str]: ...

    def search(self, queries: Vectors, exact: bool) -> Rankings:
        """Return the ids of the K nearest documents of each query vector (n, d)."""


class SourcePair(NamedTuple):
    """Sources of OLD and NEW. OLD's is searched exactly, NEW's only if `exact`. `what` describes both searches."""

    old: RankedSource
    new: RankedSource
    exact: bool
    what: str

    def search(self, old: Vectors, new: Vectors) -> tuple[Rankings, Rankings]:
        return self.old.search(old, exact=True), self.new.search(new, self.exact)


@dataclass(frozen=True, slots=True)
class DocumentSources:
    """Paths of the documents that the user gave: indexes, or a corpus. Raises UsageError if they exclude each other."""

    index: Path | None = None
    new_index: Path | None = None
    corpus: Path | None = None
    with_title: bool = False

    def __post_init__(self) -> None:
        if self.corpus and (self.index or self.new_index):
            raise UsageError("--corpus and --index exclude one another: give only one of them")
        if self.new_index and not self.index:
            raise UsageError("--new-index needs --index: the hits of NEW are compared with those of OLD's index")


class IndexSource:
    """An index on disk."""

    def __init__(self, folder: IndexFolder) -> None:
        self._folder = folder

    @property
    def ids(self) -> frozenset[str]:
        return self._folder.documents.ids()

    def search(self, queries: Vectors, exact: bool) -> Rankings:
        index, documents = self._folder.index, self._folder.documents
        search = index.exact if exact else index.search
        # One row per document: its best chunk.
        rows = ChunkGrouping(documents.firsts).search_documents(search, queries, K, None)[1].rows
        distinct = sorted({int(row) for row in rows.flat if row >= 0})
        ids = dict(zip(distinct, (document.id for document in documents.fetch(distinct)), strict=True))
        return [[ids[int(row)] for row in hits if row >= 0] for hits in rows]


class CorpusSource:
    """A corpus in memory, encoded by one encoder. It is always searched exactly."""

    def __init__(self, ids: Sequence[str], vectors: Vectors, skipped: Set[str]) -> None:
        self._ids = ids
        self._skipped = skipped
        self._vectors = ExactVectors(vectors.astype(np.float16))

    @classmethod
    def encode(cls, encoder: Encoder, documents: Sequence[tuple[str, str]], skipped: Set[str]) -> Self:
        """Encode documents (id, text). `skipped` contains the ids of documents without text."""
        ids, texts = zip(*documents, strict=True)
        prompt = encoder.bundle.manifest.pipeline.document_prompt
        with bar("documents", len(texts)) as advance:
            vectors = encoder.encode(texts, prompt_name=prompt, progress=advance)
        return cls(ids, normalise_for_comparison(encoder, vectors), skipped)

    @property
    def ids(self) -> frozenset[str]:
        """Ids of all documents, including the skipped ones: a judgement may name one, which is then never found."""
        return frozenset(self._ids) | self._skipped

    def search(self, queries: Vectors, exact: bool) -> Rankings:
        rows = self._vectors.search(ranking.validate_queries(queries, K, self._vectors.dimension), K).rows
        return [[self._ids[row] for row in hits if row >= 0] for hits in rows]


def normalise_for_comparison(encoder: Encoder, vectors: Vectors) -> Vectors:
    """Return unit vectors, except for a model that was trained for the inner product: its vectors stay unchanged."""
    pipeline = encoder.bundle.manifest.pipeline
    return vectors if pipeline.normalised or pipeline.similarity is Similarity.DOT else normalise(vectors)


def open_sources(paths: DocumentSources, old: Encoder, new: Encoder, stack: ExitStack) -> SourcePair | None:
    """Open the documents for OLD and NEW; None if the user gave neither an index nor a corpus.

    Raises UsageError, and the errors of opening an index: MismatchError, UnsafeError.
    """
    if paths.corpus:
        corpus = CorpusFile(paths.corpus, paths.with_title)
        documents = [(each.id, text_of(each, paths.with_title)) for _, each in corpus.read()]
        _require_unique_ids(documents, paths.corpus)
        description = f"exact search of {len(documents):,} documents, encoded by each of them"
        if corpus.skipped.documents:
            description += f"; documents without text were skipped: {corpus.skipped}"
        old_source, new_source = (CorpusSource.encode(encoder, documents, corpus.skipped_ids) for encoder in (old, new))
        return SourcePair(old_source, new_source, True, description)
    if not paths.index:
        return None
    for path in filter(None, (paths.index, paths.new_index)):
        origin.require_unchanged(path)
    old_index = IndexSource(stack.enter_context(IndexFolder.open(paths.index, old.bundle)))
    if paths.new_index:
        folder = stack.enter_context(IndexFolder.open(paths.new_index, new.bundle))
        description = f"NEW's search of its own index ({folder.manifest.kind}), OLD's exact search of its index"
        return SourcePair(old_index, IndexSource(folder), False, description)
    if old.bundle.fingerprint != new.bundle.fingerprint:
        raise UsageError("NEW is another model and cannot search OLD's index: give --new-index, or --corpus")
    return SourcePair(old_index, old_index, True, "exact search of OLD's index by both")


def _require_unique_ids(documents: Sequence[tuple[str, str]], path: Path) -> None:
    if len({id for id, _ in documents}) < len(documents):
        raise UsageError(f"{path}: two documents have the same id. Give each document its own id")
