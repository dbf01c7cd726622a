"""Documents and vectors in a folder of this machine: rows are searched, and documents made of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from embedship.bundle import Bundle
from embedship.codes import Vectors, normalise
from embedship.ranking import RankedRows
from embedship.serve import live
from embedship.serve.documents.fulltext import KeywordIndex
from embedship.serve.documents.store import Document, DocumentStore
from embedship.serve.index import Index, IndexSize
from embedship.serve.index.folder import IndexFolder
from embedship.serve.index.manifest import IndexManifest
from embedship.serve.live import database
from embedship.serve.live.index import MutableIndex
from embedship.serve.search.backend import (
    Hit,
    RankAndScore,
    SearchBackend,
    SearchParams,
    SearchResults,
    comparable,
    ranks_by_row,
    searched,
)
from embedship.serve.search.grouping import ROWS, ChunkGrouping


class ReadView(Protocol):
    """An index as one search sees it: what is written meanwhile changes none of it."""

    @property
    def index(self) -> Index: ...
    @property
    def documents(self) -> DocumentStore: ...
    @property
    def words(self) -> KeywordIndex: ...
    @property
    def firsts(self) -> npt.NDArray[np.uint32] | None: ...


class FolderBackend:
    """A Store. The index holds unit rows, whether or not the model normalises."""

    threads = 2

    def __init__(self, folder: IndexFolder | MutableIndex) -> None:
        self.folder = folder

    @classmethod
    def open(cls, path: Path, bundle: Bundle, writable: bool, before: SearchBackend | None = None) -> Self:
        """With the changes beside the index, if there are any or it is to take some.

        `before` is a store that is open in this process: of the same index, its changes are shared with it.
        Raises UsageError, UnsafeError, MismatchError.
        """
        if not writable and not database.holds(live.changes_folder(path)):
            return cls(IndexFolder.open(path, bundle))
        known = before.folder if isinstance(before, FolderBackend) else None
        if isinstance(known, MutableIndex) and known.serves(path, bundle):
            return cls(known.share())
        return cls(MutableIndex.open(path, bundle, writable))

    @property
    def manifest(self) -> IndexManifest:
        return self.folder.manifest

    @property
    def size(self) -> IndexSize:
        return self.folder.size

    @property
    def writable(self) -> MutableIndex | None:
        return self.folder if isinstance(self.folder, MutableIndex) and self.folder.writable else None

    @property
    def inline(self) -> bool:
        """Not where another process writes: its next snapshot is opened by whoever searches first."""
        return isinstance(self.folder, IndexFolder) or self.folder.writable

    def known(self, ids: Sequence[str]) -> dict[str, int]:
        with self._moment() as now:
            return now.documents.rows(ids)

    def fetch(self, id: str) -> Document | None:
        with self._moment() as now:
            return now.documents.full_texts([id]).get(id)

    def find(self, vectors: Vectors | None, k: int, how: SearchParams) -> SearchResults:
        with self._moment() as now:
            return _find(now, vectors, k, how)

    def exact(self, vectors: Vectors, k: int) -> npt.NDArray[np.int64]:
        with self._moment() as now:
            return _exact(now.index, vectors, k)

    def close(self) -> None:
        self.folder.close()

    def _moment(self) -> AbstractContextManager[ReadView]:
        return self.folder.moment()


def _find(now: ReadView, vectors: Vectors | None, k: int, how: SearchParams) -> SearchResults:
    began = time.perf_counter()
    whole = ChunkGrouping(now.firsts)
    grouping = whole if how.per_document else ROWS
    rows: list[RankedRows] = []  # what the index found, before the best row of each document was taken

    def near(depth: int) -> RankedRows:
        found, best = _nearest(now, vectors, depth, how, grouping)
        rows.append(found)
        return best

    lists = searched(how, k, near, lambda depth: _keyword_hits(now, depth, how, grouping), grouping.fuse)
    best, nearest = lists.best, comparable(how, rows[0] if rows else None)
    hits = _hits(now, best, k, grouping, *lists.fused)
    one = best if how.per_document else whole.best(best, best.rows.shape[1])
    documents = whole.keys(one.rows)
    return SearchResults(hits, documents, nearest, time.perf_counter() - began, partial(_exact, now.index))


def _nearest(
    now: ReadView, vectors: Vectors | None, depth: int, how: SearchParams, grouping: ChunkGrouping
) -> tuple[RankedRows, RankedRows]:
    assert vectors is not None, "who asks for similarity has encoded the queries"
    allowed = now.words.allowed(how.filter) if how.filter else None
    search = partial(now.index.search, effort=how.effort)
    return grouping.search_documents(search, normalise(vectors), depth, allowed)


def _keyword_hits(now: ReadView, depth: int, how: SearchParams, grouping: ChunkGrouping) -> RankedRows:
    return grouping.keyword_search_documents(lambda rows: now.words.search(how.texts, rows, how.filter), depth)


def _hits(
    now: ReadView,
    best: RankedRows,
    k: int,
    grouping: ChunkGrouping,
    dense: RankedRows | None,
    keyword: RankedRows | None,
) -> list[list[Hit]]:
    shown = best.rows[:, :k]
    keys, firsts = grouping.keys(shown).tolist(), ChunkGrouping(now.firsts).keys(shown).tolist()
    documents = iter(now.documents.fetch(shown[shown >= 0].tolist()))
    answers = []
    for query, scores in enumerate(best.scores[:, :k].tolist()):
        near, worded = _places(dense, query, grouping), _places(keyword, query, grouping)
        found = (each for each in zip(keys[query], firsts[query], scores, strict=True) if each[0] >= 0)
        answers.append([Hit(next(documents), score, row, near.get(key), worded.get(key)) for key, row, score in found])
    return answers


def _exact(index: Index, vectors: Vectors, k: int) -> npt.NDArray[np.int64]:
    return index.exact(normalise(vectors), k).rows


def _places(part: RankedRows | None, query: int, grouping: ChunkGrouping) -> dict[int, RankAndScore]:
    return {} if part is None else ranks_by_row(grouping.keys(part.rows[query]), part.scores[query])
