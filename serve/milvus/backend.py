"""A collection as a server or a command holds it: searched, read and changed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from embedship.bundle import Bundle
from embedship.codes import Vectors, normalise
from embedship.errors import MismatchError, UsageError
from embedship.ranking import RankedRows
from embedship.serve.documents.changes import Change, ChangeCounts, PutDocument
from embedship.serve.documents.filters import Filter, FilterError, UnknownField
from embedship.serve.documents.fulltext import words_of
from embedship.serve.documents.store import Document, same_content
from embedship.serve.index import IndexSize
from embedship.serve.index.manifest import require_model
from embedship.serve.milvus import collection_metadata as cards
from embedship.serve.milvus import expressions
from embedship.serve.milvus.collection_metadata import CollectionMetadata
from embedship.serve.milvus.connection import QUICK_SECONDS, SLOW_SECONDS, MilvusConnection
from embedship.serve.milvus.document_count import DocumentCount
from embedship.serve.milvus.entities import SHOWN, document, entity, row_of
from embedship.serve.milvus.index import CONSISTENCY, MilvusIndex
from embedship.serve.search import fusion
from embedship.serve.search.address import Address
from embedship.serve.search.backend import (
    BackendRejected,
    BackendUnavailable,
    Hit,
    RankAndScore,
    SearchParams,
    SearchResults,
    comparable,
    ranks_by_row,
    searched,
)

# Entities put in one call: of 65 kB of text each, half of the 64 MB that Milvus takes.
_BATCH = 256

# Entities asked for by number in one call.
_ASKED = 1_000

_STRONG = {"consistency_level": "Strong"}


class MilvusBackend:
    """A Store, and Writable. Of several processes each may write: of a document the last write counts."""

    inline = False
    threads = 16

    def __init__(
        self, address: Address, bundle: Bundle, quick: MilvusConnection, slow: MilvusConnection, writes: bool
    ) -> None:
        """Raises UsageError, UnsafeError, MismatchError, Lost."""
        self._address, self._bundle = address, bundle
        self._name = address.collection
        self._lines = (quick, slow)
        self._writes = writes
        self.manifest: CollectionMetadata = cards.read(slow, address)
        require_model(address, self.manifest, bundle)
        slow.call("load_collection", self._name)
        self.index = MilvusIndex(partial(self._ask, quick), partial(self._ask, slow), self._name, self.manifest)
        self._tally = DocumentCount(lambda: self.index.count(None))
        self._known_names: set[str] = set()

    @classmethod
    def open(cls, address: Address, bundle: Bundle, writable: bool, quick_seconds: float = QUICK_SECONDS) -> Self:
        """A collection that was filled with this bundle's model.

        Raises UsageError where there is none, UnsafeError where it is not one of ours, MismatchError, MissingExtra,
        Lost.
        """
        with ExitStack() as on_error:
            quick = on_error.enter_context(closing(MilvusConnection.open(address, quick_seconds)))
            slow = on_error.enter_context(closing(MilvusConnection.open(address, SLOW_SECONDS)))
            opened = cls(address, bundle, quick, slow, writable)
            on_error.pop_all()
            return opened

    @property
    def size(self) -> IndexSize:
        return IndexSize(self._tally.count, self._tally.count)

    @property
    def writable(self) -> Self | None:
        return self if self._writes else None

    def find(self, vectors: Vectors | None, k: int, how: SearchParams) -> SearchResults:
        began = time.perf_counter()
        expression = self._expression(how.filter) if how.filter else None
        lists = searched(
            how,
            k,
            lambda depth: self._nearest(vectors, depth, expression, how),
            lambda depth: self._worded(how.texts, depth, expression),
            fusion.fuse,
        )
        hits = self._hits(lists.best, k, *lists.fused)
        return SearchResults(
            hits, lists.best.rows, comparable(how, lists.dense), time.perf_counter() - began, self.exact
        )

    def exact(self, vectors: Vectors, k: int) -> npt.NDArray[np.int64]:
        return self.index.exact(normalise(vectors), k).rows

    def known(self, ids: Sequence[str]) -> dict[str, int]:
        rows = {row_of(id): id for id in ids}
        return {id: row for row, id in self._ids(list(rows), CONSISTENCY).items() if rows[row] == id}

    def fetch(self, id: str) -> Document | None:
        found = self._documents([row_of(id)], CONSISTENCY).get(row_of(id))
        return found if found and found.id == id else None

    def changed_documents(self, wanted: Sequence[Document]) -> list[Document]:
        known = self._documents([row_of(each.id) for each in wanted], _STRONG)
        return [
            each for each in wanted if (found := known.get(row_of(each.id))) is None or not same_content(found, each)
        ]

    def write(self, wanted: Sequence[Change]) -> ChangeCounts:
        """Whole documents, each all or not at all; if it fails half way, some changes were made, and may be made again.

        Raises UsageError for a document that Milvus cannot keep, and nothing is written; Lost.
        """
        last = {change.document.id if isinstance(change, PutDocument) else change.id: change for change in wanted}
        puts = [
            entity(self.manifest, each.document, each.vectors[0])
            for each in last.values()
            if isinstance(each, PutDocument)
        ]
        rows = {row_of(id): id for id in last}
        known = self._ids(list(rows), _STRONG)
        self._require_apart(rows, known, len(last))
        gone = [row for row in known if not isinstance(last[rows[row]], PutDocument)]
        for start in range(0, len(puts), _BATCH):
            self._put(puts[start : start + _BATCH])
        if gone:
            self._quick("delete", self._name, ids=gone)
        replaced = sum(each["row"] in known for each in puts)
        done = ChangeCounts(new=len(puts) - replaced, replaced=replaced, deleted=len(gone))
        self._tally.changed(done.new - done.deleted)
        return done

    def close(self) -> None:
        self._tally.close()
        for line in self._lines:
            line.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _ask(self, line: MilvusConnection, method: str, *arguments: Any, **options: Any) -> Any:
        """Where Milvus refuses, somebody may have filled the collection anew: then that is said."""
        try:
            return line.call(method, *arguments, **options)
        except BackendRejected:
            self._require_same(line)
            raise

    def _quick(self, method: str, *arguments: Any, **options: Any) -> Any:
        return self._ask(self._lines[0], method, *arguments, **options)

    def _require_same(self, line: MilvusConnection) -> None:
        try:
            require_model(self._address, cards.read(line, self._address), self._bundle)
        except (UsageError, MismatchError) as error:
            raise BackendUnavailable(f"the collection that was served is there no more: {error}") from error

    def _nearest(self, vectors: Vectors | None, depth: int, expression: str | None, how: SearchParams) -> RankedRows:
        assert vectors is not None, "who asks for similarity has encoded the queries"
        return self.index.near(normalise(vectors), depth, expression, how.effort)

    def _worded(self, texts: Sequence[str], depth: int, expression: str | None) -> RankedRows:
        """By BM25, as Milvus counts it; larger is better. A text without a word has no hits."""
        found = RankedRows(
            np.full((len(texts), depth), -1, dtype=np.int64), np.full((len(texts), depth), -np.inf, dtype=np.float32)
        )
        asked = [(place, " ".join(words)) for place, text in enumerate(texts) if (words := words_of(text))]
        if not asked:
            return found
        answers = self._quick(
            "search",
            self._name,
            data=[text for _, text in asked],
            anns_field="words",
            limit=depth,
            filter=expression or "",
            search_params={"metric_type": "BM25"},
            **CONSISTENCY,
        )
        for (place, _), hits in zip(asked, answers, strict=True):
            # Milvus Lite gives the negative of the score.
            scored = sorted((-abs(hit["distance"]), hit["row"]) for hit in hits)
            found.rows[place, : len(scored)] = [row for _, row in scored]
            found.scores[place, : len(scored)] = [-score for score, _ in scored]
        return found

    def _expression(self, wanted: Filter) -> str:
        """Raises UnknownField, FilterError: what would match nothing, or not all, must not look as if it worked."""
        for name in wanted:
            if name not in self._known_names:
                if not self._any(expressions.has_name(name)):
                    raise UnknownField(name)
                self._known_names.add(name)
        for name in expressions.ranged(wanted):
            if self._any(expressions.many(name)):
                raise FilterError(
                    f"filter: some document has more than {expressions.MOST} values of {name!r}, and in Milvus a range "
                    "is asked of no more"
                )
        return expressions.expression(wanted)

    def _any(self, fact: str) -> bool:
        return bool(self._rows(expressions.has(fact), ("row",), CONSISTENCY, limit=1))

    def _hits(self, best: RankedRows, k: int, dense: RankedRows | None, keyword: RankedRows | None) -> list[list[Hit]]:
        shown = best.rows[:, :k]
        documents = self._documents(np.unique(shown[shown >= 0]).tolist(), CONSISTENCY)
        answers = []
        for query, scores in enumerate(best.scores[:, :k].tolist()):
            near, worded = _places(dense, query), _places(keyword, query)
            answers.append(
                [
                    Hit(documents[row], score, row, near.get(row), worded.get(row))
                    for row, score in zip(shown[query].tolist(), scores, strict=True)
                    if row in documents  # else it was deleted meanwhile, or there is none
                ]
            )
        return answers

    def _documents(self, rows: Sequence[int], consistency: Mapping[str, str]) -> dict[int, Document]:
        found = self._by_rows(rows, ("row", *SHOWN), consistency)
        return {each["row"]: document(each) for each in found}

    def _ids(self, rows: Sequence[int], consistency: Mapping[str, str]) -> dict[int, str]:
        return {each["row"]: each["id"] for each in self._by_rows(rows, ("row", "id"), consistency)}

    def _by_rows(self, rows: Sequence[int], fields: Sequence[str], consistency: Mapping[str, str]) -> list[Any]:
        found: list[Any] = []
        for start in range(0, len(rows), _ASKED):
            found += self._rows(expressions.rows_in(rows[start : start + _ASKED]), fields, consistency)
        return found

    def _rows(self, expression: str, fields: Sequence[str], consistency: Mapping[str, str], **limit: int) -> list[Any]:
        return list(
            self._quick("query", self._name, filter=expression, output_fields=list(fields), **limit, **consistency)
        )

    def _put(self, entities: list[dict[str, Any]]) -> None:
        self._quick("upsert", self._name, entities)

    def _require_apart(self, rows: Mapping[int, str], known: Mapping[int, str], count: int) -> None:
        """Else one document would take the place of another: of twenty collections of a billion, it happens in one."""
        taken = [(known[row], rows[row]) for row in known if known[row] != rows[row]]
        if taken or len(rows) < count:
            two = " and ".join(map(repr, taken[0])) if taken else "of two of these documents"
            raise UsageError(f"the ids {two} have the same hash of 63 bits: change one of them")


def _places(part: RankedRows | None, query: int) -> dict[int, RankAndScore]:
    return {} if part is None else ranks_by_row(part.rows[query], part.scores[query])
