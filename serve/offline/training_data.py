"""Training data from the observations of a server: triplets, and queries that still need a label."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from embedship.codes import Vectors, normalise
from embedship.encoder import Encoder
from embedship.monitor.drift.evidence import DriftedQuery, ReferenceClusters
from embedship.monitor.drift.window import QueryWindow
from embedship.monitor.recall.feedback import JudgedQuery
from embedship.monitor.recall.hard_negatives import hard_negatives
from embedship.monitor.recall.probes import LabelledProbe
from embedship.monitor.recall.score import K, score
from embedship.serve.index.exact_vectors import ExactVectors
from embedship.serve.index.folder import IndexFolder
from embedship.serve.indexing.embedding import text_of
from embedship.serve.search.grouping import ChunkGrouping

CANDIDATES = 100  # hits searched per query: enough to find negatives, and similar enough to be hard ones
SHOWN = 5  # hits listed with a query that needs a label


class TrainingTriplet(msgspec.Struct, frozen=True):
    """One line for sentence-transformers, whose losses read every column as a text: do not add other fields."""

    anchor: str
    positive: str
    negative: str


class UnlabelledHit(msgspec.Struct, frozen=True):
    id: str
    text: str


class UnlabelledQuery(msgspec.Struct, frozen=True):
    """A query unlike those of the reference, without relevance judgements. `candidates` are its hits."""

    query: str
    id: str
    distance: float
    at: str
    candidates: tuple[UnlabelledHit, ...]


class TripletSources(msgspec.Struct, frozen=True):
    """Counts of the inputs of the triplets, and of inputs that could not be used."""

    feedback: int = 0  # queries with feedback
    probes: int = 0  # probes searched
    failed_probes: int = 0  # probes that did not find all relevant documents
    missing: int = 0  # relevant documents that are not in the index
    alone: int = 0  # relevant documents for which no negative was found
    drifted: int = 0  # queries unlike the reference whose texts were kept


class TrainingQuery(NamedTuple):
    """A query. `relevant`: the first rows of all its relevant documents; `positives`: those to train on."""

    query: str
    relevant: frozenset[int]
    positives: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TripletBuilder:
    """Builds triplets offline from an index and the encoder of the model that the index was built with."""

    encoder: Encoder
    folder: IndexFolder
    exact: ExactVectors

    @classmethod
    def open(cls, encoder: Encoder, folder: IndexFolder, path: Path) -> TripletBuilder:
        manifest = folder.manifest
        return cls(encoder, folder, ExactVectors.open(path, (manifest.size, manifest.dimension)))

    def from_feedback(self, pairs: Iterable[JudgedQuery]) -> tuple[list[TrainingQuery], int]:
        """Return one training query per distinct query, and the number of relevant documents not in the index."""
        merged: dict[str, dict[str, None]] = {}
        for pair in pairs:
            merged.setdefault(pair.query, {}).update(dict.fromkeys(pair.relevant))
        return self._resolve((query, tuple(ids)) for query, ids in merged.items())

    def from_failed_probes(self, probes: Sequence[LabelledProbe]) -> tuple[list[TrainingQuery], int]:
        """Return the probes that miss relevant documents, and the number of relevant documents not in the index.

        The positives of a failed probe are the documents that it misses.
        """
        queries, missing = self._resolve((probe.text, probe.relevant) for probe in probes)
        hits = self.search([each.query for each in queries], K)
        failed = []
        for each, rows in zip(queries, self._grouping.keys(hits).tolist(), strict=True):
            result = score(rows, each.relevant)
            if result.found < result.expected:
                failed.append(each._replace(positives=tuple(sorted(each.relevant - set(rows)))))
        return failed, missing

    def build_triplets(self, queries: Sequence[TrainingQuery], negatives: int) -> tuple[list[TrainingTriplet], int]:
        """Return up to `negatives` triplets per positive, and the number of positives without any negative."""
        triplets: list[TrainingTriplet] = []
        without_negative = 0
        vectors = self._encode([each.query for each in queries])
        for each, vector, rows in zip(queries, vectors, self._search_vectors(vectors, CANDIDATES), strict=True):
            rows = rows[rows >= 0]
            best_rows = {key: self._best_chunk(key, vector) for key in sorted(each.relevant)}
            keys = self._grouping.keys(rows)
            relevant = {int(row) for row, key in zip(rows, keys, strict=True) if int(key) in best_rows}
            answers = self.exact.rows(np.array(list(best_rows.values())))
            hard = hard_negatives(rows, self.exact.rows(rows), relevant, answers, negatives)
            texts = [self._text(row) for row in hard]
            for key in each.positives:
                triplets += [TrainingTriplet(each.query, self._text(best_rows[key]), text) for text in texts]
                without_negative += not texts
        return triplets, without_negative

    def find_unlabelled(self, drifted: Sequence[DriftedQuery]) -> list[UnlabelledQuery]:
        """Return drifted queries together with their SHOWN best hits."""
        texts = [each.text or "" for each in drifted]
        return [
            UnlabelledQuery(text, each.id, each.distance, each.at, self._candidates(rows))
            for text, each, rows in zip(texts, drifted, self.search(texts, SHOWN), strict=True)
        ]

    def search(self, queries: Sequence[str], k: int) -> npt.NDArray[np.int64]:
        """Return rows (n, k) int64 as the server finds them: best first, one row per document, padded with -1."""
        return self._search_vectors(self._encode(queries), k)

    def _encode(self, queries: Sequence[str]) -> Vectors:
        if not queries:
            return np.empty((0, self.exact.dimension), dtype=np.float32)
        return normalise(self.encoder.encode(queries, prompt_name=self.folder.manifest.query_prompt))

    def _search_vectors(self, vectors: Vectors, k: int) -> npt.NDArray[np.int64]:
        if not len(vectors):
            return np.empty((0, k), dtype=np.int64)
        return self._grouping.search_documents(self.folder.index.search, vectors, k, None)[1].rows

    def _best_chunk(self, key: int, vector: Vectors) -> int:
        """Return the row of the document's chunk that is most similar to `vector`."""
        rows = self._grouping.members(key)
        return int(rows[np.argmax(self.exact.rows(rows) @ vector)])

    @property
    def _grouping(self) -> ChunkGrouping:
        return ChunkGrouping(self.folder.documents.firsts)

    def _resolve(self, labelled_queries: Iterable[tuple[str, Sequence[str]]]) -> tuple[list[TrainingQuery], int]:
        """Replace document ids by rows. Also return the number of ids that are not in the index."""
        queries, missing = [], 0
        for query, ids in labelled_queries:
            rows = self.folder.documents.rows(list(ids))
            missing += len(set(ids)) - len(rows)
            if rows:
                queries.append(TrainingQuery(query, frozenset(rows.values()), tuple(rows.values())))
        return queries, missing

    def _text(self, row: int) -> str:
        (document,) = self.folder.documents.fetch([row])
        return text_of(document, self.folder.manifest.with_title)

    def _candidates(self, rows: npt.NDArray[np.int64]) -> tuple[UnlabelledHit, ...]:
        documents = self.folder.documents.fetch(rows[rows >= 0].tolist())
        return tuple(UnlabelledHit(each.id, text_of(each, self.folder.manifest.with_title)) for each in documents)


def drifted_queries(clusters: ReferenceClusters, window: QueryWindow) -> list[DriftedQuery]:
    """Return the queries outside every cluster of the reference whose texts were kept, furthest first."""
    drifted = clusters.far(window.vectors)
    rows = [i for i, text in enumerate(window.texts) if text is not None and drifted[i]]
    if not rows:
        return []
    window_queries = QueryWindow(
        window.vectors[rows], window.times[rows], window.calls[rows], tuple(window.texts[i] for i in rows)
    )
    return list(clusters.compare(window_queries, queries=len(rows)).queries)
