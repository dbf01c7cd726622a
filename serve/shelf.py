"""The index as the server uses it: vectors in, documents out, without stopping the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol, Self

import numpy as np
import numpy.typing as npt

from embedship.bundle import Bundle
from embedship.codes import Vectors, normalise
from embedship.ranking import Hits
from embedship.serve import fusion, live
from embedship.serve.documents import Document, Documents
from embedship.serve.filters import Filter
from embedship.serve.fusion import Mode
from embedship.serve.grouping import ROWS, Grouping
from embedship.serve.index import Index
from embedship.serve.index.effort import Effort
from embedship.serve.index.folder import IndexFolder
from embedship.serve.keyword import Words
from embedship.serve.live import database
from embedship.serve.live.index import LiveIndex

# What recall is measured at. A client that asks for three hits is searched ten, or nothing could be said of its recall.
K = 10

# Handing a search to a thread and back costs 0.1 to 0.4 ms: one that is quicker is done on the event loop.
INLINE_SECONDS = 0.0005


class How(NamedTuple):
    """How to look; `texts` are the queries themselves, where their words count."""

    mode: Mode = Mode.DENSE
    texts: Sequence[str] = ()
    filter: Filter | None = None
    effort: Effort | None = None
    per_document: bool = True  # False: every chunk of a document may be a hit

    @property
    def plain(self) -> bool:
        """Whether only the nearest vectors are asked for, as the index is tuned."""
        return self.mode is Mode.DENSE and self.filter is None and self.effort is None


NEAREST = How()


class Place(NamedTuple):
    """Where one of the two searches had a hit: from 1, and its own score."""

    rank: int
    score: float


@dataclass(frozen=True, slots=True)
class Hit:
    document: Document
    score: float
    row: int  # the first of the document
    dense: Place | None = None  # of a hybrid search, where its vector was among the nearest
    keyword: Place | None = None  # and where its words were
    retrieved: Place | None = None  # where it was before it was re-ranked


class Moment(Protocol):
    """An index as one search sees it: what is written meanwhile changes none of it."""

    @property
    def index(self) -> Index: ...
    @property
    def documents(self) -> Documents: ...
    @property
    def words(self) -> Words: ...
    @property
    def firsts(self) -> npt.NDArray[np.uint32] | None: ...


Exact = Callable[[Vectors, int], npt.NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class Found:
    """For each query its k hits, best first; and the documents (n, at least K) that were found, -1 for none.

    A document is known by its first row; without chunks it has no other. `nearest` are the rows whose recall an exact
    search can judge: None if words or a filter had a say in all of them.
    """

    hits: list[list[Hit]]
    rows: npt.NDArray[np.int64]
    nearest: npt.NDArray[np.int64] | None
    seconds: float
    exact: Exact  # the exact search of what was searched, which may be another by now


class Shelf:
    def __init__(self, folder: IndexFolder | LiveIndex, prompt: str, probe: Vectors) -> None:
        """`prompt` is put before each query; `probe`, one vector, is searched for to learn how long it takes."""
        self.folder = folder
        self.prompt = prompt
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="search")
        self._quick = min(self.find(probe, K).seconds for _ in range(3)) < INLINE_SECONDS
        if isinstance(folder, LiveIndex) and not folder.writable:
            self._quick = False  # another process writes, and its next snapshot is opened by whoever searches first

    @classmethod
    def open(
        cls,
        path: Path,
        bundle: Bundle,
        prompt: Callable[[str | None], str],
        probe: Vectors,
        writable: bool = False,
        before: Shelf | None = None,
    ) -> Self:
        """With the changes beside the index, if there are any or it is to take some.

        `before` is one that is open in this process: of the same index, its changes are shared with it.
        Raises UsageError, UnsafeError, MismatchError.
        """
        folder = _opened(path, bundle, writable, before)
        name = folder.manifest.query_prompt
        return cls(folder, "" if name is None else prompt(name), probe)

    async def rows(self, ids: Sequence[str]) -> dict[str, int]:
        """The first row of each of these document ids that the index holds."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self.known, ids)

    def known(self, ids: Sequence[str]) -> dict[str, int]:
        with self.folder.moment() as now:
            return now.documents.rows(ids)

    async def fetch(self, id: str) -> Document | None:
        """The document that has this id now, uncut."""

        def fetch() -> Document | None:
            with self.folder.moment() as now:
                return now.documents.uncut([id]).get(id)

        return await asyncio.get_running_loop().run_in_executor(self._threads, fetch)

    async def search(self, vectors: Vectors | None, k: int, how: How = NEAREST) -> Found:
        """Raises UnknownField, and UsageError for an effort the index does not have. Keywords need no vectors."""
        if self._quick and vectors is not None and len(vectors) == 1 and k <= K and how.plain:
            return self.find(vectors, k)
        return await asyncio.get_running_loop().run_in_executor(self._threads, self.find, vectors, k, how)

    def find(self, vectors: Vectors | None, k: int, how: How = NEAREST) -> Found:
        """Thread-safe, and all of it of one moment. The index holds unit rows, whether or not the model normalises."""
        with self.folder.moment() as now:
            return self._find(now, vectors, k, how)

    def _find(self, now: Moment, vectors: Vectors | None, k: int, how: How) -> Found:
        began = time.perf_counter()
        depth = max(k, K if how.mode is not Mode.HYBRID else fusion.DEPTH)
        whole = Grouping(now.firsts)
        grouping = whole if how.per_document else ROWS
        found, dense = (None, None) if how.mode is Mode.KEYWORD else self._nearest(now, vectors, depth, how, grouping)
        keyword = None if how.mode is Mode.DENSE else self._worded(now, depth, how, grouping)
        parts = [part for part in (dense, keyword) if part is not None]
        best = parts[0] if len(parts) == 1 else grouping.fuse(parts, max(k, K))
        nearest = found.rows[:, :K] if found and how.filter is None else None
        hits = self._hits(now, best, k, grouping, *((dense, keyword) if len(parts) > 1 else (None, None)))
        one = best if how.per_document else whole.best(best, best.rows.shape[1])
        documents = whole.keys(one.rows)
        return Found(hits, documents, nearest, time.perf_counter() - began, partial(_exact, now.index))

    def _nearest(
        self, now: Moment, vectors: Vectors | None, depth: int, how: How, grouping: Grouping
    ) -> tuple[Hits, Hits]:
        assert vectors is not None, "who asks for similarity has encoded the queries"
        allowed = now.words.allowed(how.filter) if how.filter else None
        search = partial(now.index.search, effort=how.effort)
        return grouping.near(search, normalise(vectors), depth, allowed)

    def _worded(self, now: Moment, depth: int, how: How, grouping: Grouping) -> Hits:
        return grouping.worded(lambda rows: now.words.search(how.texts, rows, how.filter), depth)

    def _hits(
        self, now: Moment, best: Hits, k: int, grouping: Grouping, dense: Hits | None, keyword: Hits | None
    ) -> list[list[Hit]]:
        shown = best.rows[:, :k]
        keys, firsts = grouping.keys(shown).tolist(), Grouping(now.firsts).keys(shown).tolist()
        documents = iter(now.documents.fetch(shown[shown >= 0].tolist()))
        answers = []
        for query, scores in enumerate(best.scores[:, :k].tolist()):
            near, worded = _places(dense, query, grouping), _places(keyword, query, grouping)
            found = (each for each in zip(keys[query], firsts[query], scores, strict=True) if each[0] >= 0)
            answers.append(
                [Hit(next(documents), score, row, near.get(key), worded.get(key)) for key, row, score in found]
            )
        return answers

    def exact(self, vectors: Vectors, k: int) -> npt.NDArray[np.int64]:
        """What an exact search finds, for the monitor: it runs on the monitor's thread."""
        with self.folder.moment() as now:
            return _exact(now.index, vectors, k)

    @property
    def baseline(self) -> float | None:
        """Recall@10 as it was measured when the index was built: what the monitor compares with."""
        recall = self.folder.manifest.recall
        return recall.ratio if recall and recall.k == K and recall.ratio > 0 else None

    def close(self) -> None:
        self._threads.shutdown()
        self.folder.close()


def _opened(path: Path, bundle: Bundle, writable: bool, before: Shelf | None) -> IndexFolder | LiveIndex:
    if not writable and not database.holds(live.beside(path)):
        return IndexFolder.open(path, bundle)
    if before and isinstance(before.folder, LiveIndex) and before.folder.serves(path, bundle):
        return before.folder.share()
    return LiveIndex.open(path, bundle, writable)


def _exact(index: Index, vectors: Vectors, k: int) -> npt.NDArray[np.int64]:
    return index.exact(normalise(vectors), k).rows


def _places(part: Hits | None, query: int, grouping: Grouping) -> dict[int, Place]:
    if part is None:
        return {}
    scored = zip(grouping.keys(part.rows[query]).tolist(), part.scores[query].tolist(), strict=True)
    return {key: Place(rank, score) for rank, (key, score) in enumerate(scored, 1) if key >= 0}
