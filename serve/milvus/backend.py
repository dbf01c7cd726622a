"""Milvus backend: searches, reads and changes one collection, for a server or a command."""

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
from embedship.serve.milvus import collection_metadata, expressions
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
    comparable_rows,
    ranks_by_row,
    run_searches,
)

# Entities per upsert. With 65 kB of text each they are half of the 64 MB that Milvus accepts.
_UPSERT_BATCH = 256

# Entities fetched by primary key in one call.
_FETCH_BATCH = 1_000

_STRONG = {"consistency_level": "Strong"}


class MilvusBackend:
    """A writable search backend. Several processes may write to a collection: the last write of a document wins."""

    inline = False
    threads = 16

    def __init__(
        self, address: Address, bundle: Bundle, quick: MilvusConnection, slow: MilvusConnection, writes: bool
    ) -> None:
        """Raises UsageError, UnsafeError, MismatchError, BackendUnavailable, as `open` does."""
        self._address, self._bundle = address, bundle
        self._name = address.collection
        self._connections = (quick, slow)
        self._writes = writes
        self.manifest: CollectionMetadata = collection_metadata.read(slow, address)
        require_model(address, self.manifest, bundle)
        slow.call("load_collection", self._name)
        self.index = MilvusIndex(partial(self._call, quick), partial(self._call, slow), self._name, self.manifest)
        self._document_count = DocumentCount(lambda: self.index.count(None))
        self._known_names: set[str] = set()

    @classmethod
    def open(cls, address: Address, bundle: Bundle, writable: bool, quick_seconds: float = QUICK_SECONDS) -> Self:
        """Open a collection that was filled with this bundle's model.

        Raises UsageError if it does not exist, UnsafeError if embedship did not write it, MismatchError if it belongs
        to another model, MissingExtra, BackendUnavailable.
        """
        with ExitStack() as on_error:
            quick = on_error.enter_context(closing(MilvusConnection.open(address, quick_seconds)))
            slow = on_error.enter_context(closing(MilvusConnection.open(address, SLOW_SECONDS)))
            opened = cls(address, bundle, quick, slow, writable)
            on_error.pop_all()
            return opened

    @property
    def size(self) -> IndexSize:
        return IndexSize(self._document_count.count, self._document_count.count)

    @property
    def writable(self) -> Self | None:
        return self if self._writes else None

    def find(self, vectors: Vectors | None, k: int, params: SearchParams) -> SearchResults:
        start = time.perf_counter()
        expression = self._expression(params.filter) if params.filter else None
        lists = run_searches(
            params,
            k,
            lambda depth: self._nearest(vectors, depth, expression, params),
            lambda depth: self._keyword_hits(params.texts, depth, expression),
            fusion.fuse,
        )
        hits = self._hits(lists.best, k, *lists.fused)
        return SearchResults(
            hits, lists.best.rows, comparable_rows(params, lists.dense), time.perf_counter() - start, self.exact
        )

    def exact(self, vectors: Vectors, k: int) -> npt.NDArray[np.int64]:
        return self.index.exact(normalise(vectors), k).rows

    def resolve_ids(self, ids: Sequence[str]) -> dict[str, int]:
        rows = {row_of(id): id for id in ids}
        return {id: row for row, id in self._ids(list(rows), CONSISTENCY).items() if rows[row] == id}

    def fetch(self, id: str) -> Document | None:
        document = self._documents([row_of(id)], CONSISTENCY).get(row_of(id))
        return document if document and document.id == id else None

    def changed_documents(self, wanted: Sequence[Document]) -> list[Document]:
        stored = self._documents([row_of(each.id) for each in wanted], _STRONG)
        return [each for each in wanted if (old := stored.get(row_of(each.id))) is None or not same_content(old, each)]

    def write(self, wanted: Sequence[Change]) -> ChangeCounts:
        """Write whole documents, each completely or not at all. After a failure, writing all again is safe.

        Raises UsageError, before anything is written, for a document that exceeds a limit of Milvus;
        BackendUnavailable.
        """
        last = {change.document.id if isinstance(change, PutDocument) else change.id: change for change in wanted}
        puts = [
            entity(self.manifest, each.document, each.vectors[0])
            for each in last.values()
            if isinstance(each, PutDocument)
        ]
        rows = {row_of(id): id for id in last}
        known = self._ids(list(rows), _STRONG)
        self._require_distinct_keys(rows, known, len(last))
        deleted = [row for row in known if not isinstance(last[rows[row]], PutDocument)]
        for start in range(0, len(puts), _UPSERT_BATCH):
            self._upsert(puts[start : start + _UPSERT_BATCH])
        if deleted:
            self._call_quick("delete", self._name, ids=deleted)
        replaced = sum(each["row"] in known for each in puts)
        counts = ChangeCounts(new=len(puts) - replaced, replaced=replaced, deleted=len(deleted))
        self._document_count.changed(counts.new - counts.deleted)
        return counts

    def close(self) -> None:
        self._document_count.close()
        for connection in self._connections:
            connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _call(self, connection: MilvusConnection, method: str, *arguments: Any, **options: Any) -> Any:
        """Call Milvus. If it rejects the call, check whether the collection was replaced, and report that instead."""
        try:
            return connection.call(method, *arguments, **options)
        except BackendRejected:
            self._require_same(connection)
            raise

    def _call_quick(self, method: str, *arguments: Any, **options: Any) -> Any:
        return self._call(self._connections[0], method, *arguments, **options)

    def _require_same(self, connection: MilvusConnection) -> None:
        try:
            require_model(self._address, collection_metadata.read(connection, self._address), self._bundle)
        except (UsageError, MismatchError) as error:
            raise BackendUnavailable(f"the collection that was served no longer exists: {error}") from error

    def _nearest(self, vectors: Vectors | None, depth: int, expression: str | None, params: SearchParams) -> RankedRows:
        assert vectors is not None, "a similarity search needs the vectors of the queries"
        return self.index.near(normalise(vectors), depth, expression, params.effort)

    def _keyword_hits(self, texts: Sequence[str], depth: int, expression: str | None) -> RankedRows:
        """Rank by Milvus' BM25; larger is better. A text without words has no hits."""
        ranked = RankedRows(
            np.full((len(texts), depth), -1, dtype=np.int64), np.full((len(texts), depth), -np.inf, dtype=np.float32)
        )
        queries = [(i, " ".join(words)) for i, text in enumerate(texts) if (words := words_of(text))]
        if not queries:
            return ranked
        answers = self._call_quick(
            "search",
            self._name,
            data=[text for _, text in queries],
            anns_field="words",
            limit=depth,
            filter=expression or "",
            search_params={"metric_type": "BM25"},
            **CONSISTENCY,
        )
        for (i, _), hits in zip(queries, answers, strict=True):
            # Milvus Lite returns the negative score.
            scored = sorted((-abs(hit["distance"]), hit["row"]) for hit in hits)
            ranked.rows[i, : len(scored)] = [row for _, row in scored]
            ranked.scores[i, : len(scored)] = [-score for score, _ in scored]
        return ranked

    def _expression(self, wanted: Filter) -> str:
        """Convert a filter.

        Raises UnknownField for a field that no document has, and FilterError for a range that Milvus cannot evaluate
        completely, because an incomplete result looks like a complete one.
        """
        for name in wanted:
            if name not in self._known_names:
                if not self._any(expressions.has_name(name)):
                    raise UnknownField(name)
                self._known_names.add(name)
        for name in expressions.range_names(wanted):
            if self._any(expressions.many_fact(name)):
                raise FilterError(
                    f"filter: a document has more than {expressions.MOST} values of {name!r}, and a range in Milvus "
                    "compares no more: filter by equality or `in`"
                )
        return expressions.expression(wanted)

    def _any(self, fact: str) -> bool:
        return bool(self._rows(expressions.has_any(fact), ("row",), CONSISTENCY, limit=1))

    def _hits(self, best: RankedRows, k: int, dense: RankedRows | None, keyword: RankedRows | None) -> list[list[Hit]]:
        rows = best.rows[:, :k]
        documents = self._documents(np.unique(rows[rows >= 0]).tolist(), CONSISTENCY)
        answers = []
        for query, scores in enumerate(best.scores[:, :k].tolist()):
            by_vector, by_keyword = _ranks(dense, query), _ranks(keyword, query)
            answers.append(
                [
                    Hit(documents[row], score, row, by_vector.get(row), by_keyword.get(row))
                    for row, score in zip(rows[query].tolist(), scores, strict=True)
                    if row in documents  # missing if it was deleted in the meantime, or if there are fewer than k hits
                ]
            )
        return answers

    def _documents(self, rows: Sequence[int], consistency: Mapping[str, str]) -> dict[int, Document]:
        entities = self._by_rows(rows, ("row", *SHOWN), consistency)
        return {each["row"]: document(each) for each in entities}

    def _ids(self, rows: Sequence[int], consistency: Mapping[str, str]) -> dict[int, str]:
        return {each["row"]: each["id"] for each in self._by_rows(rows, ("row", "id"), consistency)}

    def _by_rows(self, rows: Sequence[int], fields: Sequence[str], consistency: Mapping[str, str]) -> list[Any]:
        entities: list[Any] = []
        for start in range(0, len(rows), _FETCH_BATCH):
            entities += self._rows(expressions.rows_in(rows[start : start + _FETCH_BATCH]), fields, consistency)
        return entities

    def _rows(self, expression: str, fields: Sequence[str], consistency: Mapping[str, str], **limit: int) -> list[Any]:
        return list(
            self._call_quick("query", self._name, filter=expression, output_fields=list(fields), **limit, **consistency)
        )

    def _upsert(self, entities: list[dict[str, Any]]) -> None:
        self._call_quick("upsert", self._name, entities)

    def _require_distinct_keys(self, rows: Mapping[int, str], known: Mapping[int, str], count: int) -> None:
        """Raise UsageError if two ids have the same primary key, because one document would replace the other.

        With a billion documents this happens in one of twenty collections.
        """
        clashes = [(known[row], rows[row]) for row in known if known[row] != rows[row]]
        if clashes or len(rows) < count:
            two = " and ".join(map(repr, clashes[0])) if clashes else "of two of these documents"
            raise UsageError(f"the ids {two} have the same 63-bit hash: change one of them")


def _ranks(part: RankedRows | None, query: int) -> dict[int, RankAndScore]:
    return {} if part is None else ranks_by_row(part.rows[query], part.scores[query])
