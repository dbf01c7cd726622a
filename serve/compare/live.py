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
from embedship.serve.client import Asker
from embedship.serve.compare import gates, parity, rankings
from embedship.serve.compare.bundles import demand_a_decision
from embedship.serve.compare.gates import Floor, Limits, of
from embedship.serve.compare.questions import Questions
from embedship.serve.compare.rankings import Floats, K
from embedship.serve.compare.report import Evidence, Failures, Found, Latency, Measured, Side
from embedship.serve.progress import bar

T = TypeVar("T")


class _Hit(msgspec.Struct, frozen=True):
    id: str


class _Result(msgspec.Struct, frozen=True):
    hits: list[_Hit]


class _Answer(msgspec.Struct, frozen=True):
    results: list[_Result]


@dataclass(slots=True)
class Server:
    """One of the two, with what it has answered so far; None stands for an answer that did not come."""

    ask: Asker
    info: schemas.Info
    vectors: list[list[float] | None] = field(default_factory=list)
    hits: list[list[str] | None] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def answer(self, text: str, search: bool) -> None:
        rows = self._timed("/embed", list[list[float]], {"inputs": [text]})
        self.vectors.append(rows[0] if rows else None)
        if search:
            found = self._timed("/search", _Answer, {"query": text, "k": K})
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


def compare(old: Asker, new: Asker, questions: Questions, limits: Limits) -> Found:
    """Raises EngineError when either does not say what it is, UsageError when it wants a key or labels an index."""
    both = [Server(ask, ask("/info", schemas.Info)) for ask in (old, new)]
    sides = [_side(server) for server in both]
    first = [gates.model(sides[0], sides[1], limits)]
    searching = [server.info.index is not None for server in both]
    if searching == [True, False]:
        first.append(gates.unsearched())
    if any(gate.passed is False for gate in first):
        return Found(of(sides[0], sides[1], questions, first, Measured()), Evidence())
    search = all(searching)
    same = sides[0].fingerprint == sides[1].fingerprint
    demand_a_decision(same, search, questions, limits)
    _asked(both[0], both[1], questions, search)
    measured, evidence = _measured(both[0], both[1], questions, same)
    made = [*first, *gates.judged(measured, _answered(both[0], both[1]), same, Floor(), limits)]
    return Found(of(sides[0], sides[1], questions, made, measured), evidence)


def _side(server: Server) -> Side:
    info = server.info
    return Side(server.ask.url, info.model_id, info.fingerprint, info.variant, info.precision, info.dimension)


def _asked(old: Server, new: Server, questions: Questions, search: bool) -> None:
    """One request at a time; who is asked first changes with every query."""
    for server in (old, new):
        server.ask("/embed", list[list[float]], {"inputs": [questions.texts[0]]})  # the first one only warms up
    with bar("queries", len(questions)) as advance:
        for number, text in enumerate(questions.texts):
            for server in (old, new) if number % 2 == 0 else (new, old):
                server.answer(text, search)
            advance(1)


def _answered(old: Server, new: Server) -> int:
    """Queries that both answered in all that they were asked: nothing else shows anything."""
    asked = [answers for server in (old, new) for answers in (server.vectors, server.hits) if answers]
    return sum(None not in answers for answers in zip(*asked, strict=True))


def _measured(old: Server, new: Server, questions: Questions, same: bool) -> tuple[Measured, Evidence]:
    cosines = _cosines(old, new) if same else None
    places = [p for p, pair in enumerate(zip(old.hits, new.hits, strict=True)) if None not in pair]
    then, now = ([server.hits[p] or [] for p in places] for server in (old, new))
    shares = rankings.overlaps(then, now) if places else None
    asked = len(questions) * (2 if old.hits else 1)
    return Measured(
        vectors=None if cosines is None else parity.of(cosines),
        agreement=None if shares is None else rankings.agreement(shares, "as both servers answered /search"),
        labels=rankings.labels(then, now, [questions.relevant[p] for p in places]) if places else None,
        latency=_latency(old, new),
        failures=Failures(asked, len(old.failures), len(new.failures), (new.failures or [""])[0]),
    ), Evidence(cosines, shares)


def _cosines(old: Server, new: Server) -> Floats | None:
    """Of the queries that both answered; None where there is none."""
    rows = [(a, b) for a, b in zip(old.vectors, new.vectors, strict=True) if a is not None and b is not None]
    if not rows:
        return None
    then, now = (np.array(side, dtype=np.float32) for side in zip(*rows, strict=True))
    return cosine(then, now)


def _latency(old: Server, new: Server) -> Latency | None:
    if not (old.seconds and new.seconds):
        return None
    (a, b), (slow, slower) = ([float(np.percentile(s.seconds, p)) for s in (old, new)] for p in (50, 95))
    return Latency(a, b, slow, slower, b / a)
