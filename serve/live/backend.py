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
from embedship.ranking import Hits
from embedship.serve import live
from embedship.serve.documents.fulltext import Words
from embedship.serve.documents.store import Document, Documents
from embedship.serve.index import Index, Size
from embedship.serve.index.folder import IndexFolder
from embedship.serve.index.manifest import IndexManifest
from embedship.serve.live import database
from embedship.serve.live.index import LiveIndex
from embedship.serve.search.backend import Found, Hit, How, Place, Store, comparable, places, searched
from embedship.serve.search.grouping import ROWS, Grouping


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


class Local:
    """A Store. The index holds unit rows, whether or not the model normalises."""

    threads = 2

    def __init__(self, folder: IndexFolder | LiveIndex) -> None:
        self.folder = folder

    @classmethod
    def open(cls, path: Path, bundle: Bundle, writable: bool, before: Store | None = None) -> Self:
        """With the changes beside the index, if there are any or it is to take some.

        `before` is a store that is open in this process: of the same index, its changes are shared with it.
        Raises UsageError, UnsafeError, MismatchError.
        """
        if not writable and not database.holds(live.beside(path)):
            return cls(IndexFolder.open(path, bundle))
        known = before.folder if isinstance(before, Local) else None
        if isinstance(known, LiveIndex) and known.serves(path, bundle):
            return cls(known.share())
        return cls(LiveIndex.open(path, bundle, writable))

    @property
    def manifest(self) -> IndexManifest:
        return self.folder.manifest

    @property
    def size(self) -> Size:
        return self.folder.size

    @property
    def writable(self) -> LiveIndex | None:
        return self.folder if isinstance(self.folder, LiveIndex) and self.folder.writable else None

    @property
    def inline(self) -> bool:
        """Not where another process writes: its next snapshot is opened by whoever searches first."""
        return isinstance(self.folder, IndexFolder) or self.folder.writable

    def known(self, ids: Sequence[str]) -> dict[str, int]:
        with self._moment() as now:
            return now.documents.rows(ids)

    def fetch(self, id: str) -> Document | None:
        with self._moment() as now:
            return now.documents.uncut([id]).get(id)

    def find(self, vectors: Vectors | None, k: int, how: How) -> Found:
        with self._moment() as now:
            return _find(now, vectors, k, how)

    def exact(self, vectors: Vectors, k: int) -> npt.NDArray[np.int64]:
        with self._moment() as now:
            return _exact(now.index, vectors, k)

    def close(self) -> None:
        self.folder.close()

    def _moment(self) -> AbstractContextManager[Moment]:
        return self.folder.moment()


def _find(now: Moment, vectors: Vectors | None, k: int, how: How) -> Found:
    began = time.perf_counter()
    whole = Grouping(now.firsts)
    grouping = whole if how.per_document else ROWS
    rows: list[Hits] = []  # what the index found, before the best row of each document was taken

    def near(depth: int) -> Hits:
        found, best = _nearest(now, vectors, depth, how, grouping)
        rows.append(found)
        return best

    lists = searched(how, k, near, lambda depth: _worded(now, depth, how, grouping), grouping.fuse)
    best, nearest = lists.best, comparable(how, rows[0] if rows else None)
    hits = _hits(now, best, k, grouping, *lists.fused)
    one = best if how.per_document else whole.best(best, best.rows.shape[1])
    documents = whole.keys(one.rows)
    return Found(hits, documents, nearest, time.perf_counter() - began, partial(_exact, now.index))


def _nearest(now: Moment, vectors: Vectors | None, depth: int, how: How, grouping: Grouping) -> tuple[Hits, Hits]:
    assert vectors is not None, "who asks for similarity has encoded the queries"
    allowed = now.words.allowed(how.filter) if how.filter else None
    search = partial(now.index.search, effort=how.effort)
    return grouping.near(search, normalise(vectors), depth, allowed)


def _worded(now: Moment, depth: int, how: How, grouping: Grouping) -> Hits:
    return grouping.worded(lambda rows: now.words.search(how.texts, rows, how.filter), depth)


def _hits(
    now: Moment, best: Hits, k: int, grouping: Grouping, dense: Hits | None, keyword: Hits | None
) -> list[list[Hit]]:
    shown = best.rows[:, :k]
    keys, firsts = grouping.keys(shown).tolist(), Grouping(now.firsts).keys(shown).tolist()
    documents = iter(now.documents.fetch(shown[shown >= 0].tolist()))
    answers = []
    for query, scores in enumerate(best.scores[:, :k].tolist()):
        near, worded = _places(dense, query, grouping), _places(keyword, query, grouping)
        found = (each for each in zip(keys[query], firsts[query], scores, strict=True) if each[0] >= 0)
        answers.append([Hit(next(documents), score, row, near.get(key), worded.get(key)) for key, row, score in found])
    return answers


def _exact(index: Index, vectors: Vectors, k: int) -> npt.NDArray[np.int64]:
    return index.exact(normalise(vectors), k).rows


def _places(part: Hits | None, query: int, grouping: Grouping) -> dict[int, Place]:
    return {} if part is None else places(grouping.keys(part.rows[query]), part.scores[query])
