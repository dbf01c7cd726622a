"""What a search is asked, what it found, and what a shelf asks of the place where documents and vectors lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from embedship.codes import Vectors
from embedship.errors import EmbedshipError
from embedship.ranking import RankedRows
from embedship.serve.documents.changes import Change, ChangeCounts
from embedship.serve.documents.filters import Filter
from embedship.serve.documents.store import Document
from embedship.serve.index import IndexSize
from embedship.serve.index.effort import SearchEffort
from embedship.serve.index.manifest import IndexDescription
from embedship.serve.search import fusion
from embedship.serve.search.fusion import SearchMode


class BackendUnavailable(EmbedshipError):
    """The server cannot be reached, or does not answer in time. A write that was under way may have been done."""


class BackendRejected(BackendUnavailable):
    """The server answered that it cannot: the collection is gone, is being loaded, is another one by now."""


class WriteRefused(EmbedshipError):
    """Nothing of a change was written, and reading goes on; `full` where the disk has no room left."""

    def __init__(self, message: str, full: bool) -> None:
        super().__init__(message)
        self.full = full


# What recall is measured at. A client that asks for three hits is searched ten, or nothing could be said of its recall.
RECALL_K = 10


class SearchParams(NamedTuple):
    """How to look; `texts` are the queries themselves, where their words count."""

    mode: SearchMode = SearchMode.DENSE
    texts: Sequence[str] = ()
    filter: Filter | None = None
    effort: SearchEffort | None = None
    per_document: bool = True  # False: every chunk of a document may be a hit

    @property
    def plain(self) -> bool:
        """Whether only the nearest vectors are asked for, as the index is tuned."""
        return self.mode is SearchMode.DENSE and self.filter is None and self.effort is None


DEFAULT_SEARCH_PARAMS = SearchParams()


class RankAndScore(NamedTuple):
    """Where one of the two searches had a hit: from 1, and its own score."""

    rank: int
    score: float


def ranks_by_row(numbers: npt.NDArray[np.int64], scores: npt.NDArray[np.float32]) -> dict[int, RankAndScore]:
    """Where each of these (k,) hits of one query is, by its number; -1 is none."""
    scored = zip(numbers.tolist(), scores.tolist(), strict=True)
    return {number: RankAndScore(rank, score) for rank, (number, score) in enumerate(scored, 1) if number >= 0}


@dataclass(frozen=True, slots=True)
class Hit:
    document: Document
    score: float
    row: int  # the first of the document
    dense: RankAndScore | None = None  # of a hybrid search, where its vector was among the nearest
    keyword: RankAndScore | None = None  # and where its words were
    retrieved: RankAndScore | None = None  # where it was before it was re-ranked


class HitLists(NamedTuple):
    """What the searches of one request gave: each list that was asked for, and the best of them together."""

    best: RankedRows
    dense: RankedRows | None
    keyword: RankedRows | None

    @property
    def fused(self) -> tuple[RankedRows | None, RankedRows | None]:
        """The two lists that a hybrid search was made of; of another search none."""
        hybrid = self.dense is not None and self.keyword is not None
        return (self.dense, self.keyword) if hybrid else (None, None)


def searched(
    how: SearchParams,
    k: int,
    near: Callable[[int], RankedRows],
    worded: Callable[[int], RankedRows],
    fuse: Callable[[Sequence[RankedRows], int], RankedRows],
) -> HitLists:
    """Ask for as many hits as the mode needs, and fuse what comes: the policy of every store."""
    depth = max(k, fusion.DEPTH if how.mode is SearchMode.HYBRID else RECALL_K)
    dense = None if how.mode is SearchMode.KEYWORD else near(depth)
    keyword = None if how.mode is SearchMode.DENSE else worded(depth)
    parts = [part for part in (dense, keyword) if part is not None]
    return HitLists(parts[0] if len(parts) == 1 else fuse(parts, max(k, RECALL_K)), dense, keyword)


def comparable(how: SearchParams, rows: RankedRows | None) -> npt.NDArray[np.int64] | None:
    """The (n, K) rows whose recall may be held against the baseline: found by the index alone.

    None for a keyword search, for one with a filter, and for one with an effort of the client's own.
    """
    return None if rows is None or how.filter or how.effort is not None else rows.rows[:, :RECALL_K]


Exact = Callable[[Vectors, int], npt.NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class SearchResults:
    """For each query its k hits, best first; and the documents (n, at least K) that were found, -1 for none.

    A document is known by a number that its store gave it: its first row. `nearest` are the rows whose recall an exact
    search can judge: None if words or a filter had a say in all of them.
    """

    hits: list[list[Hit]]
    rows: npt.NDArray[np.int64]
    nearest: npt.NDArray[np.int64] | None
    seconds: float
    exact: Exact  # the exact search of what was searched, which may be another by now


class WritableBackend(Protocol):
    """What takes changes. For one writing thread; searches go on meanwhile."""

    @property
    def manifest(self) -> IndexDescription: ...

    def changed_documents(self, wanted: Sequence[Document]) -> list[Document]:
        """Those that are not there already, word for word: the others need neither the model nor a write."""

    def write(self, wanted: Sequence[Change]) -> ChangeCounts:
        """Put and delete; when this returns it is kept, and every search that begins sees it.

        Raises NotWritten if the disk refuses, Lost if a server cannot be reached, UsageError for a document that
        cannot be kept.
        """


class SearchBackend(Protocol):
    """Documents and their vectors, wherever they lie. Thread-safe, and so slow that a search may need a thread."""

    @property
    def manifest(self) -> IndexDescription: ...

    @property
    def size(self) -> IndexSize:
        """Never waits for a network: it is read when metrics are scraped."""

    @property
    def inline(self) -> bool:
        """Whether a search may be done on the event loop, if it is quick."""

    @property
    def threads(self) -> int:
        """How many searches may wait at once."""

    @property
    def writable(self) -> WritableBackend | None: ...

    def find(self, vectors: Vectors | None, k: int, how: SearchParams) -> SearchResults:
        """All of it of one moment. Vectors of any length; none for a keyword search.

        Raises FilterError, UsageError for an effort the index does not have, Lost for a server that cannot be reached.
        """

    def exact(self, vectors: Vectors, k: int) -> npt.NDArray[np.int64]:
        """What comparing with every vector finds: slow, and not for the request path."""

    def known(self, ids: Sequence[str]) -> dict[str, int]:
        """The number of each of these documents that is there."""

    def fetch(self, id: str) -> Document | None:
        """The document that has this id now, uncut."""

    def close(self) -> None: ...
