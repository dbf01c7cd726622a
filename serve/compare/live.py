"""Two servers, asked the same queries in turn as a client asks: what they answer, and how long they take."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec
import numpy as np

from embedship.codes import cosine
from embedship.errors import EngineError
from embedship.serve import schemas
from embedship.serve.client import ServerClient
from embedship.serve.compare import gates, parity, rankings
from embedship.serve.compare.bundles import demand_a_decision
from embedship.serve.compare.gates import CompareThresholds, CosineFloor, of
from embedship.serve.compare.questions import QuestionSet
from embedship.serve.compare.rankings import Floats, K
from embedship.serve.compare.report import (
    ComparedSide,
    CompareMeasurements,
    ComparisonResult,
    LatencyRatio,
    PerQueryValues,
    RequestFailures,
)
from embedship.serve.progress import bar

T = TypeVar("T")


class _LiveHit(msgspec.Struct, frozen=True):
    id: str


class _LiveResult(msgspec.Struct, frozen=True):
    hits: list[_LiveHit]


class _LiveAnswer(msgspec.Struct, frozen=True):
    results: list[_LiveResult]


@dataclass(slots=True)
class ComparedServer:
    """One of the two, with what it has answered so far; None stands for an answer that did not come."""

    ask: ServerClient
    info: schemas.Info
    vectors: list[list[float] | None] = field(default_factory=list)
    hits: list[list[str] | None] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def answer(self, text: str, search: bool) -> None:
        rows = self._timed("/embed", list[list[float]], {"inputs": [text]})
        self.vectors.append(rows[0] if rows else None)
        if search:
            found = self._timed("/search", _LiveAnswer, {"query": text, "k": K})
            self.hits.append([hit.id for hit in found.results[0].hits] if found else None)

    def _timed(self, path: str, kind: type[T], body: object) -> T | None:
        began = time.perf_counter()
        try:
            found = self.ask(path, kind, body)
        except EngineError as error:
            self.failures.append(str(error))
            return None
        self.seconds.append(time.perf_counter() - began)
        return found


def compare(
    old: ServerClient, new: ServerClient, questions: QuestionSet, limits: CompareThresholds
) -> ComparisonResult:
    """Raises EngineError when either does not say what it is, UsageError when it wants a key or labels an index."""
    both = [ComparedServer(ask, ask("/info", schemas.Info)) for ask in (old, new)]
    sides = [_side(server) for server in both]
    first = [gates.model(sides[0], sides[1], limits)]
    searching = [server.info.index is not None for server in both]
    if searching == [True, False]:
        first.append(gates.unsearched())
    if any(gate.passed is False for gate in first):
        return ComparisonResult(of(sides[0], sides[1], questions, first, CompareMeasurements()), PerQueryValues())
    search = all(searching)
    same = sides[0].fingerprint == sides[1].fingerprint
    demand_a_decision(same, search, questions, limits)
    _asked(both[0], both[1], questions, search)
    measured, evidence = _measured(both[0], both[1], questions, same)
    made = [*first, *gates.judged(measured, _answered(both[0], both[1]), same, CosineFloor(), limits)]
    return ComparisonResult(of(sides[0], sides[1], questions, made, measured), evidence)


def _side(server: ComparedServer) -> ComparedSide:
    info = server.info
    return ComparedSide(server.ask.url, info.model_id, info.fingerprint, info.variant, info.precision, info.dimension)


def _asked(old: ComparedServer, new: ComparedServer, questions: QuestionSet, search: bool) -> None:
    """One request at a time; who is asked first changes with every query."""
    for server in (old, new):
        server.ask("/embed", list[list[float]], {"inputs": [questions.texts[0]]})  # the first one only warms up
    with bar("queries", len(questions)) as advance:
        for number, text in enumerate(questions.texts):
            for server in (old, new) if number % 2 == 0 else (new, old):
                server.answer(text, search)
            advance(1)


def _answered(old: ComparedServer, new: ComparedServer) -> int:
    """Queries that both answered in all that they were asked: nothing else shows anything."""
    asked = [answers for server in (old, new) for answers in (server.vectors, server.hits) if answers]
    return sum(None not in answers for answers in zip(*asked, strict=True))


def _measured(
    old: ComparedServer, new: ComparedServer, questions: QuestionSet, same: bool
) -> tuple[CompareMeasurements, PerQueryValues]:
    cosines = _cosines(old, new) if same else None
    places = [p for p, pair in enumerate(zip(old.hits, new.hits, strict=True)) if None not in pair]
    then, now = ([server.hits[p] or [] for p in places] for server in (old, new))
    shares = rankings.overlaps(then, now) if places else None
    asked = len(questions) * (2 if old.hits else 1)
    return CompareMeasurements(
        vectors=None if cosines is None else parity.of(cosines),
        agreement=None if shares is None else rankings.agreement(shares, "as both servers answered /search"),
        labels=rankings.labels(then, now, [questions.relevant[p] for p in places]) if places else None,
        latency=_latency(old, new),
        failures=RequestFailures(asked, len(old.failures), len(new.failures), (new.failures or [""])[0]),
    ), PerQueryValues(cosines, shares)


def _cosines(old: ComparedServer, new: ComparedServer) -> Floats | None:
    """Of the queries that both answered; None where there is none."""
    rows = [(a, b) for a, b in zip(old.vectors, new.vectors, strict=True) if a is not None and b is not None]
    if not rows:
        return None
    then, now = (np.array(side, dtype=np.float32) for side in zip(*rows, strict=True))
    return cosine(then, now)


def _latency(old: ComparedServer, new: ComparedServer) -> LatencyRatio | None:
    if not (old.seconds and new.seconds):
        return None
    (a, b), (slow, slower) = ([float(np.percentile(s.seconds, p)) for s in (old, new)] for p in (50, 95))
    return LatencyRatio(a, b, slow, slower, b / a)
