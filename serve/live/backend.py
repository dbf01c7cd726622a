"""Search backend for an index folder on this machine: searches its rows and returns documents."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol, Self

import msgspec
import numpy as np
import numpy.typing as npt

from embedship.bundle import Bundle
from embedship.codes import Vectors, normalise
from embedship.ranking import RankedRows
from embedship.serve import interruption, live
from embedship.serve.documents.fulltext import KeywordIndex
from embedship.serve.documents.store import Document, DocumentStore, MissingRows
from embedship.serve.index import Index, IndexSize
from embedship.serve.index.folder import IndexFolder
from embedship.serve.index.manifest import IndexManifest
from embedship.serve.live import database
from embedship.serve.live.index import MutableIndex
from embedship.serve.search.backend import (
    BackendUnavailable,
    Hit,
    HitsTooLarge,
    RankAndScore,
    SearchBackend,
    SearchParams,
    SearchResults,
    comparable_rows,
    ranks_by_row,
    run_searches,
)
from embedship.serve.search.grouping import ROWS, ChunkGrouping

# Documents of a search are read in parts of this many, until they have more characters than one response may have.
_ROWS_AT_ONCE = 256
_MAX_HIT_CHARACTERS = 64 * 1024 * 1024


class ReadView(Protocol):
    """An index at one version, for one search: later writes do not change it."""

    @property
    def index(self) -> Index: ...
    @property
    def documents(self) -> DocumentStore: ...
    @property
    def words(self) -> KeywordIndex: ...
    @property
    def firsts(self) -> npt.NDArray[np.uint32] | None: ...


class FolderBackend:
    """A SearchBackend. The index has unit vectors, whether or not the model normalises its vectors."""

    threads = 2

    def __init__(self, folder: IndexFolder | MutableIndex) -> None:
        self.folder = folder

    @classmethod
    def open(cls, path: Path, bundle: Bundle, writable: bool, before: SearchBackend | None = None) -> Self:
        """Open the index with the changes next to it, if there are any or if it is to be writable.

        `before` is a backend that is already open in this process. If it is open on the same index, both share the
        changes. Raises UsageError, UnsafeError, MismatchError.
        """
        if not writable and not database.exists(live.changes_folder(path)):
            return cls(IndexFolder.open(path, bundle))
        opened = before.folder if isinstance(before, FolderBackend) else None
        if isinstance(opened, MutableIndex) and opened.serves(path, bundle):
            return cls(opened.share())
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
        """False if another process writes: then a search may have to open that process's next snapshot."""
        return isinstance(self.folder, IndexFolder) or self.folder.writable

    def resolve_ids(self, ids: Sequence[str]) -> dict[str, int]:
        with self._read_view() as view:
            return view.documents.rows(ids)

    def fetch(self, id: str) -> Document | None:
        with self._read_view() as view:
            return view.documents.full_texts([id]).get(id)

    def find(self, vectors: Vectors | None, k: int, params: SearchParams) -> SearchResults:
        with self._read_view() as view:
            started = time.perf_counter()
            by_document = ChunkGrouping(view.firsts)
            grouping = by_document if params.per_document else ROWS
            rows: list[RankedRows] = []  # the results of the index, before the best row of each document was selected

            def search_vectors(depth: int) -> RankedRows:
                assert vectors is not None, "a search by similarity needs query vectors"
                allowed = view.words.allowed(params.filter) if params.filter else None
                search = partial(view.index.search, effort=params.effort)
                hits, best = grouping.search_documents(search, normalise(vectors), depth, allowed)
                rows.append(hits)
                return best

            lists = run_searches(
                params, k, search_vectors, lambda depth: _keyword_hits(view, depth, params, grouping), grouping.fuse
            )
            best, nearest = lists.best, comparable_rows(params, rows[0] if rows else None)
            hits = _hits(view, best, k, grouping, *lists.fused)
            one_per_document = best if params.per_document else by_document.best(best, best.rows.shape[1])
            documents = by_document.keys(one_per_document.rows)
            return SearchResults(hits, documents, nearest, time.perf_counter() - started, partial(_exact, view.index))

    def exact(self, vectors: Vectors, k: int) -> npt.NDArray[np.int64]:
        with self._read_view() as view:
            return _exact(view.index, vectors, k)

    def close(self) -> None:
        self.folder.close()

    @contextmanager
    def _read_view(self) -> Iterator[ReadView]:
        """Yield a view for one search. Raises BackendUnavailable if the file of the documents proves to be damaged."""
        try:
            with self.folder.read_view() as view:
                yield view
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                raise
            raise _damaged(error) from error
        except MissingRows as error:
            raise _damaged(error) from error


def _damaged(error: Exception) -> BackendUnavailable:
    return BackendUnavailable(f"the documents of this index are damaged ({error}): build it again")


def _keyword_hits(view: ReadView, depth: int, params: SearchParams, grouping: ChunkGrouping) -> RankedRows:
    return grouping.keyword_search_documents(lambda rows: view.words.search(params.texts, rows, params.filter), depth)


def _hits(
    view: ReadView,
    best: RankedRows,
    k: int,
    grouping: ChunkGrouping,
    dense: RankedRows | None,
    keyword: RankedRows | None,
) -> list[list[Hit]]:
    rows = best.rows[:, :k]
    keys, firsts = grouping.keys(rows).tolist(), ChunkGrouping(view.firsts).keys(rows).tolist()
    documents = iter(_fetch(view, rows[rows >= 0].tolist()))
    answers = []
    for query, scores in enumerate(best.scores[:, :k].tolist()):
        by_vector, by_keyword = _ranks(dense, query, grouping), _ranks(keyword, query, grouping)
        hits = (each for each in zip(keys[query], firsts[query], scores, strict=True) if each[0] >= 0)
        answers.append(
            [Hit(next(documents), score, row, by_vector.get(key), by_keyword.get(key)) for key, row, score in hits]
        )
    return answers


def _fetch(view: ReadView, rows: list[int]) -> list[Document]:
    """Return the documents of these rows. Raises HitsTooLarge, because 10,000 hits may have gigabytes of text."""
    if len(rows) <= _ROWS_AT_ONCE:
        return view.documents.fetch(rows)
    documents: list[Document] = []
    size = 0
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        interruption.check()
        documents += view.documents.fetch(rows[start : start + _ROWS_AT_ONCE])
        size += sum(map(_size, documents[start:]))
        if size > _MAX_HIT_CHARACTERS:
            raise HitsTooLarge(len(rows), _MAX_HIT_CHARACTERS)
    return documents


def _size(document: Document) -> int:
    metadata = len(msgspec.json.encode(document.metadata)) if document.metadata else 0
    return len(document.text) + len(document.title or "") + metadata


def _exact(index: Index, vectors: Vectors, k: int) -> npt.NDArray[np.int64]:
    return index.exact(normalise(vectors), k).rows


def _ranks(part: RankedRows | None, query: int, grouping: ChunkGrouping) -> dict[int, RankAndScore]:
    return {} if part is None else ranks_by_row(grouping.keys(part.rows[query]), part.scores[query])
