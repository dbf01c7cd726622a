"""What the server counts. Every series exists at zero from the first scrape; no label has unbounded values."""

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
    """Why a connection was cut without an answer: label of embedship_connections_cut_total."""

    HEAD = "head"
    BODY = "body"
    UNREAD = "unread"


OTHER = "other"  # the route label of every path that is not a route
CLASSES = ("2xx", "4xx", "5xx")

# Models take 1 to 30 ms for a query on an idle machine, and there the steps are small; 30 s is where clients give up.
_SECONDS = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0
)  # fmt: skip
# What is done beside the model: microseconds for a query, tens of milliseconds for 2,048 texts.
_SHORT = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
_TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_SHARE = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)  # the lanes allow 0.05, and a little more where a batch is small


@dataclass(frozen=True, slots=True)
class BuildInfo:
    """What runs: the labels of embedship_info."""

    fingerprint: str
    variant: str
    runtime: str
    precision: str
    version: str
    reranker: str  # the fingerprint; "" where there is none


@dataclass(frozen=True, slots=True)
class _SeriesMaker:
    """Makes series whose names begin with `prefix`."""

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
    """What one model computes, in `unit`s: texts that it encodes, or pairs that it scores."""

    def __init__(self, registry: CollectorRegistry, prefix: str = "embedship_", unit: str = "text") -> None:
        make, units = _SeriesMaker(prefix, registry), f"{unit}s"
        done = {"text": "encoded", "pair": "scored"}[unit]
        self.texts = make.counter(f"{units}_total", f"{units.capitalize()} {done}.")
        self.tokens = make.counter("tokens_total", f"Tokens {done}, without padding.")
        self.padded_tokens = make.counter("padded_tokens_total", "Tokens computed, padding included.")
        self.truncated = make.counter(
            f"truncated_{units}_total", f"{units.capitalize()} that were longer than the model reads."
        )
        self.batches = make.histogram(f"batch_{units}", f"{units.capitalize()} in a batch.", bounds=_TEXTS)
        self.batch_tokens = make.histogram("batch_tokens", "Tokens in a batch, padding included.", bounds=_TOKENS)
        self.wrong_shapes = make.gauge("wrong_shapes", "Shapes of batches that are wrong here and not used.")
        self.padding = make.histogram("batch_padding_ratio", "Share of a batch that is padding.", bounds=_SHARE)
        queue = make.histograms("queue_seconds", "From a request's tokens to the start of its first batch.", "lane")
        self.queue_seconds = {lane: queue.labels(lane) for lane in Priority}
        self.inference = make.histograms("inference_seconds", "One batch on its device.", "device")
        self.tokenise_seconds = make.histogram(
            "tokenise_seconds", f"From a request's {units} to its tokens.", bounds=_SHORT
        )


class Metrics:
    """Used from the event loop only. `registry` is injected: a server a registry, a registry a test."""

    def __init__(self, registry: CollectorRegistry, reranks: bool = False) -> None:
        make = _SeriesMaker("embedship_", registry)
        counter, gauge, histogram, histograms = make.counter, make.gauge, make.histogram, make.histograms
        self.embedding = ModelMetrics(registry)
        self.reranking = ModelMetrics(registry, "embedship_rerank_", "pair") if reranks else None
        requests = counter("requests_total", "Requests answered, by route and status class.", "route", "status")
        seconds = histograms("request_seconds", "From the request line to the last byte of the answer.", "route")
        rejections = counter(
            "rejections_total",
            "Requests answered with a 4xx, a 504 of the client's own deadline, or a 503 for connections, by reason.",
            "reason",
        )
        failures = counter("failures_total", "Requests answered with another 5xx (or TEI's 424), by reason.", "reason")
        self.search_seconds = histogram("search_seconds", "Index and documents, for the queries of one request.")
        self.write_seconds = histogram("index_write_seconds", "One transaction of changes, until it is on the disk.")
        changes = counter("index_changes_total", "Documents changed, by what was there before.", "change")
        self.changes = {change: changes.labels(change) for change in ChangeCounts.__struct_fields__}
        compactions = counter("index_compactions_total", "Compactions of the index, by what came of them.", "result")
        self.compactions = {result: compactions.labels(result) for result in CompactionResult}
        self.compaction_seconds = counter("index_compaction_seconds_total", "Time spent in compactions.")
        self.compacted = gauge("index_last_compaction_timestamp_seconds", "Unix time of the last one; 0 before it.")
        self.index: dict[Gauge, Callable[[IndexSize], int]] = {
            gauge("index_documents", "Documents in the index."): lambda size: size.documents,
            gauge("index_rows", "Vectors in the index: chunks if documents were cut."): lambda size: size.rows,
            gauge("index_fresh_documents", "Documents put since the snapshot was made."): lambda size: size.fresh,
            gauge("index_tombstones", "Rows of the snapshot that count no more."): lambda size: size.tombstones,
            gauge("index_fresh_bytes", "Memory of the vectors put since."): lambda size: size.fresh_bytes,
        }
        self.serialise_seconds = histogram(
            "serialise_seconds", "From a request's vectors, tokens or hits to its answer's bytes.", bounds=_SHORT
        )
        self.reloads = counter("reloads_total", "Reloads of bundle and index, by what came of them.", "result")
        self.connections = gauge("connections", "Connections open to the server's port.")
        cuts = counter("connections_cut_total", "Connections cut: head or body too slow, answer not read.", "reason")
        self.queue_texts = gauge("queue_texts", "Texts and pairs waiting for a stream.")
        self.queue_age = gauge("queue_age_seconds", "Age of the oldest text or pair that waits; 0: none.", "lane")
        self.permits = gauge("permits_in_use", "Texts and pairs admitted and not yet answered.")
        self.ready = gauge("ready", "1 while /ready says so.")
        self._info = gauge("info", "Always 1; what runs is in the labels.", *BuildInfo.__slots__)

        # Children are made before they are counted on: that shows them at zero, and saves the look-up later.
        self._reasons = {reason: rejections.labels(reason) for reason in REJECTIONS}
        self._reasons |= {reason: failures.labels(reason) for reason in FAILURES}
        self._cuts = {why: cuts.labels(why) for why in CloseReason}

        self._requests, self._seconds = requests, seconds
        self._answered: dict[tuple[str, str], Counter] = {}
        self._timed: dict[str, HistogramSeries] = {}

    def set_build_info(self, build: BuildInfo) -> None:
        """What answers from now on; what did before is no longer shown."""
        self._info.clear()
        self._info.labels(**{name: getattr(build, name) for name in BuildInfo.__slots__}).set(1)

    def preregister_routes(self, routes: Iterable[str]) -> None:
        """Show these routes at zero, and all other paths as one."""
        for route in (*routes, OTHER):
            self._timed[route] = self._seconds.labels(route)
            for status in CLASSES:
                self._answered[route, status] = self._requests.labels(route, status)

    def answered(self, route: str, status: int, seconds: float) -> None:
        self._answered[route, f"{status // 100}xx"].inc()
        self._timed[route].observe(seconds)

    def cut(self, why: CloseReason) -> None:
        self._cuts[why].inc()

    def count_error(self, error: RequestError) -> None:
        self._reasons[ERROR_MAPPINGS[type(error)].reason].inc()
