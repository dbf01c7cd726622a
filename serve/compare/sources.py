"""What OLD finds exactly, and what NEW finds, for every query: in indexes, or in a corpus encoded by both."""

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
    """Documents that one side can be asked for."""

    @property
    def ids(self) -> frozenset[str]: ...

    def ranked(self, queries: Vectors, exact: bool) -> Rankings: ...


class SourcePair(NamedTuple):
    """OLD's shelf, which is searched exactly, and NEW's, which is so where `exact`; `what` says it in words."""

    old: RankedSource
    new: RankedSource
    exact: bool
    what: str

    def ranked(self, old: Vectors, new: Vectors) -> tuple[Rankings, Rankings]:
        return self.old.ranked(old, exact=True), self.new.ranked(new, self.exact)


@dataclass(frozen=True, slots=True)
class DocumentSources:
    """Where documents are found, as the user said: indexes, or a corpus."""

    index: Path | None = None
    new_index: Path | None = None
    corpus: Path | None = None
    with_title: bool = False

    def __post_init__(self) -> None:
        if self.corpus and (self.index or self.new_index):
            raise UsageError("--corpus and --index exclude one another: the documents come from one of them")
        if self.new_index and not self.index:
            raise UsageError("--new-index needs --index: what NEW finds is held against what OLD finds")


class IndexSource:
    """An index on disk."""

    def __init__(self, folder: IndexFolder) -> None:
        self._folder = folder

    @property
    def ids(self) -> frozenset[str]:
        return self._folder.documents.ids()

    def ranked(self, queries: Vectors, exact: bool) -> Rankings:
        index, documents = self._folder.index, self._folder.documents
        search = index.exact if exact else index.search
        rows = (
            ChunkGrouping(documents.firsts).search_documents(search, queries, K, None)[1].rows
        )  # of each document its best chunk
        named = documents.fetch(sorted(found := {int(row) for row in rows.flat if row >= 0}))
        ids = dict(zip(sorted(found), (document.id for document in named), strict=True))
        return [[ids[int(row)] for row in hits if row >= 0] for hits in rows]


class CorpusSource:
    """A corpus in memory, as one encoder sees it; every search of it is exact."""

    def __init__(self, ids: Sequence[str], vectors: Vectors, skipped: Set[str]) -> None:
        self._ids = ids
        self._skipped = skipped
        self._truth = ExactVectors(vectors.astype(np.float16))

    @classmethod
    def make(cls, encoder: Encoder, documents: Sequence[tuple[str, str]], skipped: Set[str]) -> Self:
        """Of (id, text), and the ids of documents without text."""
        ids, texts = zip(*documents, strict=True)
        prompt = encoder.bundle.manifest.pipeline.document_prompt
        with bar("documents", len(texts)) as advance:
            vectors = encoder.encode(texts, prompt_name=prompt, progress=advance)
        return cls(ids, comparable(encoder, vectors), skipped)

    @property
    def ids(self) -> frozenset[str]:
        """Skipped ones included: a judgement may name one, which is then never found."""
        return frozenset(self._ids) | self._skipped

    def ranked(self, queries: Vectors, exact: bool) -> Rankings:
        rows = self._truth.search(ranking.checked(queries, K, self._truth.dimension), K).rows
        return [[self._ids[row] for row in hits if row >= 0] for hits in rows]


def comparable(encoder: Encoder, vectors: Vectors) -> Vectors:
    """Unit rows, except where the model was trained for the inner product."""
    pipeline = encoder.bundle.manifest.pipeline
    return vectors if pipeline.normalised or pipeline.similarity is Similarity.DOT else normalise(vectors)


def opened(where: DocumentSources, old: Encoder, new: Encoder, stack: ExitStack) -> SourcePair | None:
    """None where the user named no documents. Raises UsageError, MismatchError, UnsafeError as an index does."""
    if where.corpus:
        corpus = CorpusFile(where.corpus, where.with_title)
        documents = [(each.id, text_of(each, where.with_title)) for _, each in corpus.read()]
        _refuse_doubles(documents, where.corpus)
        what = f"both by exact search of {len(documents):,} documents, which each encoded"
        if corpus.skipped.documents:
            what += f"; documents without text were skipped: {corpus.skipped}"
        old_side, new_side = (CorpusSource.make(encoder, documents, corpus.skipped_ids) for encoder in (old, new))
        return SourcePair(old_side, new_side, True, what)
    if not where.index:
        return None
    for each in filter(None, (where.index, where.new_index)):
        origin.refuse(each)
    then = IndexSource(stack.enter_context(IndexFolder.open(where.index, old.bundle)))
    if where.new_index:
        folder = stack.enter_context(IndexFolder.open(where.new_index, new.bundle))
        what = f"NEW's search of its own index ({folder.manifest.kind}), OLD's exact search of its own"
        return SourcePair(then, IndexSource(folder), False, what)
    if old.bundle.fingerprint != new.bundle.fingerprint:
        raise UsageError("NEW is another model and cannot search OLD's index: give --new-index, or --corpus")
    return SourcePair(then, then, True, "both by exact search of OLD's index")


def _refuse_doubles(documents: Sequence[tuple[str, str]], path: Path) -> None:
    if len({id for id, _ in documents}) < len(documents):
        raise UsageError(f"{path} gives an id to two documents: each needs its own")
