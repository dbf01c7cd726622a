"""Prometheus metrics of the server. Every series exists at zero from the first scrape; all labels are bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from prometheus_client import CollectorRegistry, Counter, Gauge

from embedship.serve.documents.changes import ChangeCounts
from embedship.serve.errors import ERROR_MAPPINGS, FAILURES, REJECTIONS, RequestError
from embedship.serve.index import IndexSize
from embedship.serve.live.compaction import CompactionResult
from embedship.serve.telemetry.histogram import HistogramFamily, HistogramSeries
from embedship.serve.telemetry.request_context import Priority


class CloseReason(StrEnum):
    """Reason for closing a connection without a response: label of embedship_connections_cut_total."""

    HEAD = "head"
    BODY = "body"
    UNREAD = "unread"


OTHER = "other"  # route label of all paths that are not routes
CLASSES = ("2xx", "4xx", "5xx")

# On an idle machine models take 1 to 30 ms for a query, so the buckets are narrow in this range. Clients give up after
# 30 s.
_SECONDS = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0
)  # fmt: skip
# Work outside the model: microseconds for a query, tens of milliseconds for 2,048 texts.
_SHORT = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
_TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_SHARE = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)  # up to 0.05 is allowed, and a little more in small batches


@dataclass(frozen=True, slots=True)
class BuildInfo:
    """Running model and version: the labels of embedship_info."""

    fingerprint: str
    variant: str
    runtime: str
    precision: str
    version: str
    reranker: str  # fingerprint; "" without a re-ranker


@dataclass(frozen=True, slots=True)
class _SeriesMaker:
    """Creates metrics whose names start with `prefix`."""

    prefix: str
    registry: CollectorRegistry

    def counter(self, name: str, help: str, *labels: str) -> Counter:
        return Counter(self.prefix + name, help, labels, registry=self.registry)

    def histograms(
        self, name: str, help: str, label: str | None, bounds: tuple[float, ...] = _SECONDS
    ) -> HistogramFamily:
        return HistogramFamily(self.prefix + name, help, label, bounds, self.registry)

    def histogram(self, name: str, help: str, bounds: tuple[float, ...] = _SECONDS) -> HistogramSeries:
        return self.histograms(name, help, None, bounds).labels()

    def gauge(self, name: str, help: str, *labels: str) -> Gauge:
        return Gauge(self.prefix + name, help, labels, registry=self.registry)


class ModelMetrics:
    """Metrics of one model. `unit` is `text` for a model that encodes texts, `pair` for one that scores pairs."""

    def __init__(self, registry: CollectorRegistry, prefix: str = "embedship_", unit: str = "text") -> None:
        make, units = _SeriesMaker(prefix, registry), f"{unit}s"
        done = {"text": "encoded", "pair": "scored"}[unit]
        self.texts = make.counter(f"{units}_total", f"{units.capitalize()} {done}.")
        self.tokens = make.counter("tokens_total", f"Tokens {done}, without padding.")
        self.padded_tokens = make.counter("padded_tokens_total", "Tokens computed, including padding.")
        self.truncated = make.counter(
            f"truncated_{units}_total", f"{units.capitalize()} that were too long for the model and truncated."
        )
        self.batches = make.histogram(f"batch_{units}", f"{units.capitalize()} in a batch.", bounds=_TEXTS)
        self.batch_tokens = make.histogram("batch_tokens", "Tokens in a batch, including padding.", bounds=_TOKENS)
        self.wrong_shapes = make.gauge(
            "wrong_shapes", "Batch shapes that give wrong vectors on this machine and are not used."
        )
        self.padding = make.histogram("batch_padding_ratio", "Share of padding in a batch.", bounds=_SHARE)
        queue = make.histograms(
            "queue_seconds", "Time from tokenisation of a request to the start of its first batch.", "lane"
        )
        self.queue_seconds = {lane: queue.labels(lane) for lane in Priority}
        self.inference = make.histograms("inference_seconds", "Time to compute one batch, by device.", "device")
        self.tokenise_seconds = make.histogram(
            "tokenise_seconds", f"Time to tokenise the {units} of a request.", bounds=_SHORT
        )


class Metrics:
    """All metrics of one server. Used from the event loop only. Each server, and each test, has its own registry."""

    def __init__(self, registry: CollectorRegistry, reranks: bool = False) -> None:
        make = _SeriesMaker("embedship_", registry)
        counter, gauge, histogram, histograms = make.counter, make.gauge, make.histogram, make.histograms
        self.embedding = ModelMetrics(registry)
        self.reranking = ModelMetrics(registry, "embedship_rerank_", "pair") if reranks else None
        requests = counter("requests_total", "Answered requests, by route and status class.", "route", "status")
        seconds = histograms("request_seconds", "Time from the request line to the last byte of the response.", "route")
        rejections = counter(
            "rejections_total",
            "Requests answered with a 4xx, a 504 after the client's own timeout, or a 503 at the connection limit, by "
            "reason.",
            "reason",
        )
        failures = counter(
            "failures_total", "Requests answered with another 5xx (or 424 in TEI's dialect), by reason.", "reason"
        )
        self.search_seconds = histogram(
            "search_seconds", "Time to search the index and read the documents, for the queries of one request."
        )
        self.write_seconds = histogram(
            "index_write_seconds", "Time of one transaction of changes, until it is durable."
        )
        changes = counter("index_changes_total", "Changed documents, by kind of change.", "change")
        self.changes = {change: changes.labels(change) for change in ChangeCounts.__struct_fields__}
        compactions = counter("index_compactions_total", "Compactions of the index, by result.", "result")
        self.compactions = {result: compactions.labels(result) for result in CompactionResult}
        self.compaction_seconds = counter("index_compaction_seconds_total", "Time spent in compactions.")
        self.compacted = gauge(
            "index_last_compaction_timestamp_seconds", "Unix time of the last compaction; 0 before the first."
        )
        self.index: dict[Gauge, Callable[[IndexSize], int]] = {
            gauge("index_documents", "Documents in the index."): lambda size: size.documents,
            gauge("index_rows", "Vectors in the index; one per chunk if documents are chunked."): lambda size: (
                size.rows
            ),
            gauge("index_fresh_documents", "Documents added since the last snapshot."): lambda size: size.fresh,
            gauge("index_tombstones", "Rows of the snapshot that were replaced or deleted."): lambda size: (
                size.tombstones
            ),
            gauge("index_fresh_bytes", "Memory of the vectors added since the last snapshot."): lambda size: (
                size.fresh_bytes
            ),
        }
        self.serialise_seconds = histogram(
            "serialise_seconds", "Time to serialise the response of a request.", bounds=_SHORT
        )
        self.reloads = counter("reloads_total", "Reloads of bundle and index, by result.", "result")
        self.connections = gauge("connections", "Open connections to the server's port.")
        cuts = counter(
            "connections_cut_total",
            "Connections closed because headers or body were too slow, or the response was not read.",
            "reason",
        )
        self.queue_texts = gauge("queue_texts", "Texts and pairs waiting for a device.")
        self.queue_age = gauge("queue_age_seconds", "Age of the oldest waiting text or pair; 0 if none waits.", "lane")
        self.permits = gauge("permits_in_use", "Texts and pairs that are admitted and not yet answered.")
        self.ready = gauge("ready", "1 while /ready returns 200.")
        self._info = gauge("info", "Always 1; the labels describe the running model.", *BuildInfo.__slots__)

        # Create the labelled series now: they are then exported at zero, and need no lookup later.
        self._reasons = {reason: rejections.labels(reason) for reason in REJECTIONS}
        self._reasons |= {reason: failures.labels(reason) for reason in FAILURES}
        self._cuts = {reason: cuts.labels(reason) for reason in CloseReason}

        self._requests, self._seconds = requests, seconds
        self._answered: dict[tuple[str, str], Counter] = {}
        self._timed: dict[str, HistogramSeries] = {}

    def set_build_info(self, build: BuildInfo) -> None:
        """Set the labels of embedship_info to the current model; the previous series is removed."""
        self._info.clear()
        self._info.labels(**{name: getattr(build, name) for name in BuildInfo.__slots__}).set(1)

    def preregister_routes(self, routes: Iterable[str]) -> None:
        """Create the series of these routes, and one for all other paths."""
        for route in (*routes, OTHER):
            self._timed[route] = self._seconds.labels(route)
            for status in CLASSES:
                self._answered[route, status] = self._requests.labels(route, status)

    def record_request(self, route: str, status: int, seconds: float) -> None:
        """Count an answered request and its duration in seconds."""
        self._answered[route, f"{status // 100}xx"].inc()
        self._timed[route].observe(seconds)

    def cut(self, reason: CloseReason) -> None:
        """Count a closed connection."""
        self._cuts[reason].inc()

    def count_error(self, error: RequestError) -> None:
        """Count a rejected or failed request by its reason."""
        self._reasons[ERROR_MAPPINGS[type(error)].reason].inc()
