"""Search parameters, search results, and the interface that a search backend must implement."""

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
    """The server cannot be reached, or does not answer in time. A pending write may or may not have been done."""


class BackendRejected(BackendUnavailable):
    """The server refused the call: for example the collection was dropped, is being loaded, or was replaced."""


class HitsTooLarge(EmbedshipError):
    """The documents of these hits have too much text for one response."""

    def __init__(self, hits: int, most: int) -> None:
        super().__init__(f"the documents of the {hits:,} hits have more than {most:,} characters, the maximum")


class WriteRefused(EmbedshipError):
    """Nothing of a change was written; reading still works. `full` says whether the disk is full."""

    def __init__(self, message: str, full: bool) -> None:
        super().__init__(message)
        self.full = full


# Recall is measured at this k. A request for fewer hits still searches this many, so that its recall can be measured.
RECALL_K = 10


class SearchParams(NamedTuple):
    """Parameters of a search. `texts` are the queries themselves, for keyword and hybrid search."""

    mode: SearchMode = SearchMode.DENSE
    texts: Sequence[str] = ()
    filter: Filter | None = None
    effort: SearchEffort | None = None
    per_document: bool = True  # False: each chunk of a document may be a hit

    @property
    def plain(self) -> bool:
        """Whether this is a plain vector search, without a filter, with the tuned effort of the index."""
        return self.mode is SearchMode.DENSE and self.filter is None and self.effort is None


DEFAULT_SEARCH_PARAMS = SearchParams()


class RankAndScore(NamedTuple):
    """The rank (from 1) and score of a hit in one of the two searches."""

    rank: int
    score: float


def ranks_by_row(numbers: npt.NDArray[np.int64], scores: npt.NDArray[np.float32]) -> dict[int, RankAndScore]:
    """Return the rank and score of each of these (k,) hits of one query, by row number; -1 means no hit."""
    scored = zip(numbers.tolist(), scores.tolist(), strict=True)
    return {number: RankAndScore(rank, score) for rank, (number, score) in enumerate(scored, 1) if number >= 0}


@dataclass(frozen=True, slots=True)
class Hit:
    """A document that a search found."""

    document: Document
    score: float
    row: int  # first row of the document
    dense: RankAndScore | None = None  # in a hybrid search, its rank in the vector search, if it was found there
    keyword: RankAndScore | None = None  # in a hybrid search, its rank in the keyword search, if it was found there
    retrieved: RankAndScore | None = None  # its rank before re-ranking


class HitLists(NamedTuple):
    """The results of the searches of one request: each list that was requested, and the fused list."""

    best: RankedRows
    dense: RankedRows | None
    keyword: RankedRows | None

    @property
    def fused(self) -> tuple[RankedRows | None, RankedRows | None]:
        """The two lists that a hybrid search fused; (None, None) for any other search."""
        hybrid = self.dense is not None and self.keyword is not None
        return (self.dense, self.keyword) if hybrid else (None, None)


def run_searches(
    params: SearchParams,
    k: int,
    search_vectors: Callable[[int], RankedRows],
    search_words: Callable[[int], RankedRows],
    fuse: Callable[[Sequence[RankedRows], int], RankedRows],
) -> HitLists:
    """Run the searches that the mode needs, each with enough hits, and fuse them. Every backend uses this."""
    depth = max(k, fusion.DEPTH if params.mode is SearchMode.HYBRID else RECALL_K)
    dense = None if params.mode is SearchMode.KEYWORD else search_vectors(depth)
    keyword = None if params.mode is SearchMode.DENSE else search_words(depth)
    parts = [part for part in (dense, keyword) if part is not None]
    return HitLists(parts[0] if len(parts) == 1 else fuse(parts, max(k, RECALL_K)), dense, keyword)


def comparable_rows(params: SearchParams, rows: RankedRows | None) -> npt.NDArray[np.int64] | None:
    """Return the (n, RECALL_K) rows whose recall can be compared with the baseline.

    None for a keyword search, a search with a filter, and a search with an effort set by the client.
    """
    return None if rows is None or params.filter or params.effort is not None else rows.rows[:, :RECALL_K]


Exact = Callable[[Vectors, int], npt.NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class SearchResults:
    """For each query its k hits, best first, and the documents (n, at least RECALL_K) that were found, -1 for none.

    A document is identified by its first row. `nearest` are the rows whose recall an exact search can judge; None if
    words or a filter influenced all of them.
    """

    hits: list[list[Hit]]
    rows: npt.NDArray[np.int64]
    nearest: npt.NDArray[np.int64] | None
    seconds: float
    exact: Exact  # exact search in the version that was searched, which may be outdated now


class WritableBackend(Protocol):
    """A backend that accepts changes, from one writing thread. Searches may run at the same time."""

    @property
    def manifest(self) -> IndexDescription: ...

    def changed_documents(self, requested: Sequence[Document]) -> list[Document]:
        """Return the documents that are not stored yet with this content. Only these are embedded and written."""

    def write(self, requested: Sequence[Change]) -> ChangeCounts:
        """Put and delete documents. On return the changes are stored, and every new search sees them.

        Raises WriteRefused if the disk rejects it, BackendUnavailable if a server cannot be reached, UsageError for a
        document that cannot be stored.
        """


class SearchBackend(Protocol):
    """Documents and their vectors in a folder or a database. Thread-safe. A search may be slow and need a thread."""

    @property
    def manifest(self) -> IndexDescription: ...

    @property
    def size(self) -> IndexSize:
        """The size of the index. Must not wait for a network, because it is read when metrics are scraped."""

    @property
    def inline(self) -> bool:
        """Whether a search may run on the event loop, if it is fast enough."""

    @property
    def threads(self) -> int:
        """How many searches may wait at the same time."""

    @property
    def writable(self) -> WritableBackend | None: ...

    def find(self, vectors: Vectors | None, k: int, params: SearchParams) -> SearchResults:
        """Search one version of the index. `vectors` have any length; None for a keyword search.

        Raises FilterError, UsageError for an effort that the index does not have, BackendUnavailable if a server cannot
        be reached.
        """

    def exact(self, vectors: Vectors, k: int) -> npt.NDArray[np.int64]:
        """Return the k nearest rows by comparing with every vector. Slow, so not for requests."""

    def resolve_ids(self, ids: Sequence[str]) -> dict[str, int]:
        """Return the row number of each of these ids that is stored."""

    def fetch(self, id: str) -> Document | None:
        """Return the current document with this id, with its whole text."""

    def close(self) -> None: ...
