"""Comparison of two servers: sends the same queries to both over HTTP, and compares answers and latency."""

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
from embedship.serve.compare.bundles import require_decidable
from embedship.serve.compare.gates import CompareThresholds, CosineFloor, build_report
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
    """One of the two servers and its answers so far. An answer None means that the request failed."""

    client: ServerClient
    info: schemas.Info
    vectors: list[list[float] | None] = field(default_factory=list)
    hits: list[list[str] | None] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def send(self, text: str, search: bool) -> None:
        """Send one query to /embed, and to /search if `search`, and store the answers."""
        rows = self._request("/embed", list[list[float]], {"inputs": [text]})
        self.vectors.append(rows[0] if rows else None)
        if search:
            answer = self._request("/search", _LiveAnswer, {"query": text, "k": K})
            self.hits.append([hit.id for hit in answer.results[0].hits] if answer else None)

    def _request(self, path: str, kind: type[T], body: object) -> T | None:
        start = time.perf_counter()
        try:
            answer = self.client(path, kind, body)
        except EngineError as error:
            self.failures.append(str(error))
            return None
        self.seconds.append(time.perf_counter() - start)
        return answer


def compare(
    old: ServerClient, new: ServerClient, questions: QuestionSet, limits: CompareThresholds
) -> ComparisonResult:
    """Compare two servers. If NEW is worse, the report says so, and no error is raised.

    Raises EngineError if a server does not answer /info, UsageError if it requires an API key or if labels cannot be
    used.
    """
    both = [ComparedServer(client, client("/info", schemas.Info)) for client in (old, new)]
    sides = [_side(server) for server in both]
    results = [gates.check_model(sides[0], sides[1], limits)]
    have_index = [server.info.index is not None for server in both]
    if have_index == [True, False]:
        results.append(gates.fail_without_index())
    if any(gate.passed is False for gate in results):
        report = build_report(sides[0], sides[1], questions, results, CompareMeasurements())
        return ComparisonResult(report, PerQueryValues())
    search = all(have_index)
    same_model = sides[0].fingerprint == sides[1].fingerprint
    require_decidable(same_model, search, questions, limits)
    _send_queries(both[0], both[1], questions, search)
    measured, per_query = _measure(both[0], both[1], questions, same_model)
    distinct = _count_answered(both[0], both[1])
    results += gates.check_measurements(measured, distinct, same_model, CosineFloor(), limits)
    return ComparisonResult(build_report(sides[0], sides[1], questions, results, measured), per_query)


def _side(server: ComparedServer) -> ComparedSide:
    info = server.info
    return ComparedSide(
        server.client.url, info.model_id, info.fingerprint, info.variant, info.precision, info.dimension
    )


def _send_queries(old: ComparedServer, new: ComparedServer, questions: QuestionSet, search: bool) -> None:
    """Send one request at a time. The server that is asked first alternates, so that neither has an advantage."""
    for server in (old, new):
        server.client("/embed", list[list[float]], {"inputs": [questions.texts[0]]})  # warm-up
    with bar("queries", len(questions)) as advance:
        for number, text in enumerate(questions.texts):
            for server in (old, new) if number % 2 == 0 else (new, old):
                server.send(text, search)
            advance(1)


def _count_answered(old: ComparedServer, new: ComparedServer) -> int:
    """Return the number of queries for which every request to both servers succeeded."""
    answers = [answers for server in (old, new) for answers in (server.vectors, server.hits) if answers]
    return sum(None not in each for each in zip(*answers, strict=True))


def _measure(
    old: ComparedServer, new: ComparedServer, questions: QuestionSet, same_model: bool
) -> tuple[CompareMeasurements, PerQueryValues]:
    cosines = _cosines(old, new) if same_model else None
    answered = [i for i, pair in enumerate(zip(old.hits, new.hits, strict=True)) if None not in pair]
    old_hits, new_hits = ([server.hits[i] or [] for i in answered] for server in (old, new))
    relevant = [questions.relevant[i] for i in answered]
    shares = rankings.overlap_ratios(old_hits, new_hits) if answered else None
    requests = len(questions) * (2 if old.hits else 1)
    return CompareMeasurements(
        vectors=None if cosines is None else parity.summarise(cosines),
        agreement=None if shares is None else rankings.measure_agreement(shares, "hits of /search of both servers"),
        labels=rankings.measure_labels(old_hits, new_hits, relevant) if answered else None,
        latency=_latency(old, new),
        failures=RequestFailures(requests, len(old.failures), len(new.failures), (new.failures or [""])[0]),
    ), PerQueryValues(cosines, shares)


def _cosines(old: ComparedServer, new: ComparedServer) -> Floats | None:
    """Return the cosines for queries that both answered; None if there are none."""
    rows = [(a, b) for a, b in zip(old.vectors, new.vectors, strict=True) if a is not None and b is not None]
    if not rows:
        return None
    old_vectors, new_vectors = (np.array(side, dtype=np.float32) for side in zip(*rows, strict=True))
    return cosine(old_vectors, new_vectors)


def _latency(old: ComparedServer, new: ComparedServer) -> LatencyRatio | None:
    if not (old.seconds and new.seconds):
        return None
    old_median, old_p95 = (float(np.percentile(old.seconds, p)) for p in (50, 95))
    new_median, new_p95 = (float(np.percentile(new.seconds, p)) for p in (50, 95))
    return LatencyRatio(
        old_median=old_median, new_median=new_median, old_p95=old_p95, new_p95=new_p95, ratio=new_median / old_median
    )
