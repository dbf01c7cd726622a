"""What was noticed in service, as what the next training wants: triplets, and queries that still need a label."""

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

CANDIDATES = 100  # searched for each query: enough to find negatives among, and near enough to be hard
SHOWN = 5  # candidates beside a query that needs a label


class TrainingTriplet(msgspec.Struct, frozen=True):
    """A line for sentence-transformers, whose losses take every column for a text: nothing else may stand in it."""

    anchor: str
    positive: str
    negative: str


class UnlabelledHit(msgspec.Struct, frozen=True):
    id: str
    text: str


class UnlabelledQuery(msgspec.Struct, frozen=True):
    """A query unlike those of the reference. What is right for it nobody has said; `candidates` is what was found."""

    query: str
    id: str
    distance: float
    at: str
    candidates: tuple[UnlabelledHit, ...]


class TripletSources(msgspec.Struct, frozen=True):
    """Where the triplets come from, and what could not be used."""

    feedback: int = 0  # judged queries
    probes: int = 0  # that were asked
    failed_probes: int = 0  # of them those that did not find all they should
    missing: int = 0  # right answers that the index does not hold
    alone: int = 0  # right answers to which no negative was found
    drifted: int = 0  # queries unlike the reference whose texts were kept


class TrainingQuery(NamedTuple):
    """A query, all documents that are right for it, by their first rows, and those of them that it is to be taught."""

    query: str
    relevant: frozenset[int]
    taught: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TripletBuilder:
    """An index and the model that filled it, asked offline."""

    encoder: Encoder
    folder: IndexFolder
    truth: ExactVectors

    @classmethod
    def open(cls, encoder: Encoder, folder: IndexFolder, path: Path) -> TripletBuilder:
        manifest = folder.manifest
        return cls(encoder, folder, ExactVectors.open(path, (manifest.size, manifest.dimension)))

    def judged(self, pairs: Iterable[JudgedQuery]) -> tuple[list[TrainingQuery], int]:
        """Lessons from feedback; a query that was judged twice is one. Also how many right answers are not there."""
        merged: dict[str, dict[str, None]] = {}
        for pair in pairs:
            merged.setdefault(pair.query, {}).update(dict.fromkeys(pair.relevant))
        return self._known((query, tuple(ids)) for query, ids in merged.items())

    def failed(self, probes: Sequence[LabelledProbe]) -> tuple[list[TrainingQuery], int]:
        """Lessons from the probes that do not find all they should: what they miss is taught."""
        lessons, missing = self._known((probe.text, probe.relevant) for probe in probes)
        found = self.search([lesson.query for lesson in lessons], K)
        failed = []
        for lesson, rows in zip(lessons, self._grouping.keys(found).tolist(), strict=True):
            judged = score(rows, lesson.relevant)
            if judged.found < judged.expected:
                failed.append(lesson._replace(taught=tuple(sorted(lesson.relevant - set(rows)))))
        return failed, missing

    def triplets(self, lessons: Sequence[TrainingQuery], negatives: int) -> tuple[list[TrainingTriplet], int]:
        """`negatives` triplets for each answer that is taught; also how many answers had no negative at all."""
        made: list[TrainingTriplet] = []
        alone = 0
        vectors = self._encoded([lesson.query for lesson in lessons])
        for lesson, vector, rows in zip(lessons, vectors, self._near(vectors, CANDIDATES), strict=True):
            rows = rows[rows >= 0]
            right = {key: self._nearest(key, vector) for key in sorted(lesson.relevant)}
            keys = self._grouping.keys(rows)
            known = {int(row) for row, key in zip(rows, keys, strict=True) if int(key) in right}
            answers = self.truth.rows(np.array(list(right.values())))
            wrong = hard_negatives(rows, self.truth.rows(rows), known, answers, negatives)
            texts = [self._text(row) for row in wrong]
            for key in lesson.taught:
                made += [TrainingTriplet(lesson.query, self._text(right[key]), text) for text in texts]
                alone += not texts
        return made, alone

    def unlabelled(self, drifted: Sequence[DriftedQuery]) -> list[UnlabelledQuery]:
        texts = [each.text or "" for each in drifted]
        return [
            UnlabelledQuery(text, each.id, each.distance, each.at, self._candidates(rows))
            for text, each, rows in zip(texts, drifted, self.search(texts, SHOWN), strict=True)
        ]

    def search(self, queries: Sequence[str], k: int) -> npt.NDArray[np.int64]:
        """The rows (n, k) that the service would find, best first, one a document, -1 for none."""
        return self._near(self._encoded(queries), k)

    def _encoded(self, queries: Sequence[str]) -> Vectors:
        if not queries:
            return np.empty((0, self.truth.dimension), dtype=np.float32)
        return normalise(self.encoder.encode(queries, prompt_name=self.folder.manifest.query_prompt))

    def _near(self, vectors: Vectors, k: int) -> npt.NDArray[np.int64]:
        if not len(vectors):
            return np.empty((0, k), dtype=np.int64)
        return self._grouping.search_documents(self.folder.index.search, vectors, k, None)[1].rows

    def _nearest(self, key: int, vector: Vectors) -> int:
        """The chunk of a document that answers best; the document itself where it was not cut."""
        rows = self._grouping.members(key)
        return int(rows[np.argmax(self.truth.rows(rows) @ vector)])

    @property
    def _grouping(self) -> ChunkGrouping:
        return ChunkGrouping(self.folder.documents.firsts)

    def _known(self, judged: Iterable[tuple[str, Sequence[str]]]) -> tuple[list[TrainingQuery], int]:
        lessons, missing = [], 0
        for query, ids in judged:
            rows = self.folder.documents.rows(list(ids))
            missing += len(set(ids)) - len(rows)
            if rows:
                lessons.append(TrainingQuery(query, frozenset(rows.values()), tuple(rows.values())))
        return lessons, missing

    def _text(self, row: int) -> str:
        (document,) = self.folder.documents.fetch([row])
        return text_of(document, self.folder.manifest.with_title)

    def _candidates(self, rows: npt.NDArray[np.int64]) -> tuple[UnlabelledHit, ...]:
        documents = self.folder.documents.fetch(rows[rows >= 0].tolist())
        return tuple(UnlabelledHit(each.id, text_of(each, self.folder.manifest.with_title)) for each in documents)


def drifted(known: ReferenceClusters, window: QueryWindow) -> list[DriftedQuery]:
    """Queries of the window that belong to no topic of the reference and whose texts were kept, furthest first."""
    far = known.far(window.vectors)
    rows = [i for i, text in enumerate(window.texts) if text is not None and far[i]]
    if not rows:
        return []
    kept = QueryWindow(
        window.vectors[rows], window.times[rows], window.calls[rows], tuple(window.texts[i] for i in rows)
    )
    return list(known.compare(kept, queries=len(rows)).queries)
