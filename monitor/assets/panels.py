"""The dashboard as data: rows of panels, each with its queries and a description for the reader."""

from enum import StrEnum
from typing import NamedTuple

from embedship.monitor.assets.recording import QUIET, RERANKED
from embedship.monitor.diagnosis import DiagnosisCause

# Selects the job and instances that are chosen in the dashboard's variables; part of every query.
CHOSEN = 'job="$job", instance=~"$instance"'
_RATE = "[$__rate_interval]"


class PanelKind(StrEnum):
    """The Grafana panel type."""

    LINES = "timeseries"
    STATES = "state-timeline"
    NUMBER = "stat"
    TABLE = "table"


class PanelQuery(NamedTuple):
    """A PromQL query and the legend of its series."""

    expr: str
    legend: str


class DashboardPanel(NamedTuple):
    """One panel: title, description, queries, unit, type and width."""

    title: str
    description: str
    queries: tuple[PanelQuery, ...]
    unit: str = "short"
    kind: PanelKind = PanelKind.LINES
    width: int = 8  # of 24


def series(name: str, **labels: str) -> str:
    """Return a series of the chosen instances. `route__not`: a pattern that the route must not match."""
    pairs = [
        f'{key.removesuffix("__not")}{"!~" if key.endswith("__not") else "="}"{value}"' for key, value in labels.items()
    ]
    return f"embedship_{name}{{{', '.join([CHOSEN, *pairs])}}}"


def rate(name: str, **labels: str) -> str:
    """Return the query for the rate of a counter of the chosen instances."""
    return f"rate({series(name, **labels)}{_RATE})"


def quantile(q: float, name: str, **labels: str) -> str:
    """Return the query for a quantile of a histogram of the chosen instances."""
    return f"histogram_quantile({q}, sum by (le) ({rate(name + '_bucket', **labels)}))"


def state(name: str, **labels: str) -> str:
    """Return a query for a state as a number: 0 unknown, 1 ok, 2 warn."""
    return (
        f"2 * {series(name, state='warn', **labels)}\n"
        f"  + ignoring (state) {series(name, state='ok', **labels)}"
    )  # fmt: skip


def _quantiles(name: str, **labels: str) -> tuple[PanelQuery, ...]:
    return tuple(PanelQuery(quantile(q, name, **labels), f"p{q * 100:g}") for q in (0.5, 0.95, 0.99))


_WORK = {"route__not": QUIET}
_BY = "{{source}} {{instance}}"

SERVICE = (
    DashboardPanel("Diagnosis",
        "The most likely cause of the current warnings. Unknown does not mean ok: data is missing.",
          (PanelQuery(f"max by (cause) ({series('diagnosis')}) == 1", "{{cause}}"),), kind=PanelKind.NUMBER, width=6),
    DashboardPanel("Instances ready", "Instances that answer /ready with 200, and all scraped instances.",
          (PanelQuery(f"sum({series('ready')})", "ready"), PanelQuery(f"count({series('ready')})", "scraped")),
          kind=PanelKind.NUMBER, width=6),
    DashboardPanel("Model and version", "Vectors of different fingerprints must not be compared.",
          (PanelQuery(series("info"), ""),), kind=PanelKind.TABLE, width=12),
    DashboardPanel("Requests per second", "By route, without monitoring and administration.",
          (PanelQuery(f"sum by (route) ({rate('requests_total', **_WORK)})", "{{route}}"),), unit="reqps"),
    DashboardPanel("Search latency",
        "From the request line to the last byte of the answer. Re-ranked searches have their "
          "own row.", _quantiles("request_seconds", route="/search"), unit="s"),
    DashboardPanel("Refused and failed",
        "Refused: an error of the client, a full queue (overloaded), or the client's deadline passed (expired). "
          "Failed: an error of the server.",
          (PanelQuery(f"sum by (reason) ({rate('rejections_total')})", "refused: {{reason}}"),
           PanelQuery(f"sum by (reason) ({rate('failures_total')})", "failed: {{reason}}")), unit="reqps"),
    DashboardPanel("Texts in the queue", "Texts that wait for a device, and admitted texts without an answer.",
          (PanelQuery(series("queue_texts"), "waiting {{instance}}"),
           PanelQuery(series("permits_in_use"), "admitted {{instance}}"))),
    DashboardPanel("Age of the oldest waiting text",
        "By lane. It grows while devices are down, or while more texts arrive than are "
          "encoded.",
          (PanelQuery(series("queue_age_seconds"), "{{lane}} {{instance}}"),), unit="s"),
    DashboardPanel("Latency by step, 99th percentile",
        "Tokenising the texts, waiting for a device, running a batch, searching the index, "
          "and writing the answer.",
          (PanelQuery(quantile(0.99, "tokenise_seconds"), "tokenise"),
           *(PanelQuery(quantile(0.99, "queue_seconds", lane=lane), f"queue, {lane}") for lane in ("interactive",
               "bulk")),
           PanelQuery(quantile(0.99, "inference_seconds"), "batch"),
           PanelQuery(quantile(0.99, "search_seconds"), "index"),
           PanelQuery(quantile(0.99, "serialise_seconds"), "serialise")), unit="s"),
    DashboardPanel("Truncated texts per second",
        "Texts longer than the model allows: their ends do not influence the vector.",
          (PanelQuery(f"sum({rate('truncated_texts_total')})", "truncated"),), unit="short", width=24),
)  # fmt: skip

DEVICES = (
    DashboardPanel("Devices up", "Working devices of each instance, and all its devices.",
          (PanelQuery(f"sum by (instance) ({series('device_up')})", "up {{instance}}"),
           PanelQuery(f"count by (instance) ({series('device_up')})", "limit: {{instance}}"))),
    DashboardPanel("Worker process failures",
        "Since the start: restarts, batches that were tried again, and batches that were split.",
          (PanelQuery(series('device_restarts_total'), "restarts {{device}} {{instance}}"),
           PanelQuery(series('retried_batches_total'), "retried batches {{instance}}"),
           PanelQuery(series('split_batches_total'), "split batches {{instance}}"))),
    DashboardPanel("Busy streams", "Streams that compute, by device.",
          (PanelQuery(rate("device_busy_seconds_total"), "{{device}} {{instance}}"),)),
    DashboardPanel("Texts per second", "By instance.", (PanelQuery(rate("texts_total"), "{{instance}}"),)),
    DashboardPanel("Tokens per second", "Without padding, by instance.", (PanelQuery(rate("tokens_total"),
        "{{instance}}"),)),
    DashboardPanel("Padding", "Share of computed tokens that are padding.",
          (PanelQuery(f"1 - {rate('tokens_total')} / ({rate('padded_tokens_total')} > 0)", "{{instance}}"),),
          unit="percentunit"),
    DashboardPanel("Batch latency, 95th percentile", "By device. A slow device delays requests.",
          (PanelQuery(f"histogram_quantile(0.95, sum by (le, device) ({rate('inference_seconds_bucket')}))",
              "{{device}}"),),
          unit="s"),
    DashboardPanel("Texts per batch", "Mean.",
          (PanelQuery(f"{rate('batch_texts_sum')} / ({rate('batch_texts_count')} > 0)", "{{instance}}"),)),
    DashboardPanel("CPU and memory", "Cores in use, and resident memory (right axis).",
          (PanelQuery(f"rate(process_cpu_seconds_total{{{CHOSEN}}}{_RATE})", "cores {{instance}}"),
           PanelQuery(f"process_resident_memory_bytes{{{CHOSEN}}}", "memory {{instance}}"))),
    DashboardPanel("Canary cosine",
        "Lowest cosine of the golden texts, by device: to the checkpoint's vectors (golden) and to the device's own "
          "vectors at start. Below the floor the device gives wrong vectors.",
          (PanelQuery(series("canary_cosine") + " > 0", "{{against}} {{device}} {{instance}}"),
           PanelQuery(f"max by (against, device) ({series('canary_cosine_floor')})", "floor: {{against}} {{device}}")),
          width=16),
    DashboardPanel("Canaries", "Do all devices give the right vectors for the golden texts?",
          (PanelQuery(state("canary_state"), "{{instance}}"),), kind=PanelKind.STATES),
)  # fmt: skip

QUALITY = (
    DashboardPanel("Recall@10",
        "Rolling mean with 95% interval. shadow: the index compared with an exact search. probe: labelled queries that "
          "are replayed. feedback: judgements of users. Nothing is drawn for a source without data.",
          (PanelQuery(f"{series('recall_rolling_ratio')} and {series('recall_queries_total')} > 0", _BY),
           PanelQuery(f"{series('recall_rolling_lower_ratio')} and {series('recall_queries_total')} > 0",
               f"lower {_BY}"),
           PanelQuery(f"{series('recall_rolling_upper_ratio')} and {series('recall_queries_total')} > 0",
               f"upper {_BY}"),
           PanelQuery(f"{series('recall_baseline_ratio')} > 0", f"baseline {_BY}")), unit="percentunit", width=16),
    DashboardPanel("Recall states", "By the configured rule.",
          (PanelQuery(state("recall_state"), _BY),), kind=PanelKind.STATES),
    DashboardPanel("Evidence of a fall",
        "Accumulated query by query. At the limit it warns; the limit is the mean number of queries per false "
          "alarm.",
          (PanelQuery(series("recall_evidence"), _BY),
           PanelQuery(f"max by (source) ({series('recall_evidence_limit')})", "limit: {{source}}"))),
    DashboardPanel("Compared queries per second", "Queries from which recall is computed, by source.",
          (PanelQuery(rate("recall_queries_total"), _BY),
           PanelQuery(rate("shadow_skipped_queries_total"), "skipped, CPU budget used up {{instance}}"))),
    DashboardPanel("Probes: nDCG@10", "Of the last complete replay, and of the first (baseline).",
          (PanelQuery(f"{series('probe_ndcg_ratio')} > 0", "{{instance}}"),
           PanelQuery(f"{series('probe_ndcg_baseline_ratio')} > 0", "baseline {{instance}}")), unit="percentunit"),
    DashboardPanel("Labels without a document",
        "Labels of the probes whose document is not in the index. They lower the recall of the probes.",
          (PanelQuery(series("probe_missing_labels"), "{{instance}}"),), width=12),
    DashboardPanel("Answers waiting for feedback", "Answers that POST /feedback can still judge.",
          (PanelQuery(series("feedback_answers"), "{{instance}}"),), width=12),
)  # fmt: skip

DRIFT = (
    DashboardPanel("Drift", "Do recent queries differ from the reference? By the configured rule.",
          (PanelQuery(state("drift_state"), "{{instance}}"),), kind=PanelKind.STATES),
    DashboardPanel("Score", "Squared shift of the mean: about 1 without drift, above the threshold with drift.",
          (PanelQuery(f"{series('drift_score')} > 0", "{{instance}}"),
           PanelQuery(f"{series('drift_score_threshold')} > 0", "threshold {{instance}}"))),
    DashboardPanel("Effect", "Shift of the mean beyond noise, in standard deviations. It matters above the floor.",
          (PanelQuery(series("drift_effect"), "{{instance}}"),
           PanelQuery(f"{series('drift_effect_floor')} > 0", "floor {{instance}}"))),
    DashboardPanel("Shifted dimensions",
        "Share of dimensions with p < 0.05 in the KS test (5% without drift), and after corrections.",
          (PanelQuery(series("drift_dimensions_ratio"), "p < 0.05 {{instance}}"),
           PanelQuery(series("drift_discovery_dimensions_ratio"), "Benjamini and Hochberg {{instance}}"),
           PanelQuery(series("drift_bonferroni_dimensions_ratio"), "Bonferroni {{instance}}")), unit="percentunit"),
    DashboardPanel("Queries of no known topic", "Share, and the share expected without drift.",
          (PanelQuery(series("drift_far_ratio"), "{{instance}}"),
           PanelQuery(f"{series('drift_far_usual_ratio')} > 0", "without drift {{instance}}")), unit="percentunit"),
    DashboardPanel("Tested queries", "In the window, distinct, and the equivalent number of independent queries.",
          (PanelQuery(series("drift_window_queries"), "window {{instance}}"),
           PanelQuery(series("drift_distinct_queries"), "distinct {{instance}}"),
           PanelQuery(series("drift_effective_queries"), "effective {{instance}}"))),
    DashboardPanel("False alarms per day",
        "Promised by the budget, and measured on held-out blocks of the reference with a "
          "95% interval.",
          (PanelQuery(f"max by (kind) ({series('drift_false_alarms_per_day')})", "{{kind}}"),)),
    DashboardPanel("Age of the last evaluation", "Time since the monitor last evaluated drift.",
          (PanelQuery(f"time() - ({series('monitor_last_evaluation_timestamp_seconds')} > 0)", "{{instance}}"),),
          unit="s"),
    DashboardPanel("Monitor: dropped and failed", "Queries dropped by a full queue, and caught exceptions, per second.",
          (PanelQuery(rate("monitor_dropped_total"), "dropped {{instance}}"),
           PanelQuery(f"sum by (part) ({rate('monitor_failures_total')})", "failed: {{part}}"))),
)  # fmt: skip

RERANKING = (
    DashboardPanel("Pairs per second", "Pairs of query and passage. Empty without a re-ranker.",
          (PanelQuery(rate("rerank_pairs_total"), "{{instance}}"),), width=6),
    DashboardPanel("Re-ranked search latency",
        "From the request line to the last byte of the answer. It grows with the passages per query, "
          "so EmbedshipLatencyHigh does not count these searches.",
          _quantiles("request_seconds", route=RERANKED), unit="s", width=6),
    DashboardPanel("Re-ranking latency by step, 99th percentile",
        "Tokenising the pairs, waiting for a device, and running a batch.",
          (PanelQuery(quantile(0.99, "rerank_tokenise_seconds"), "tokenise"),
           PanelQuery(quantile(0.99, "rerank_queue_seconds"), "queue"),
           PanelQuery(quantile(0.99, "rerank_inference_seconds"), "batch")), unit="s", width=6),
    DashboardPanel("Truncated pairs per second",
        "Pairs longer than the re-ranker allows: the end of the longer text does not influence "
          "the score.",
          (PanelQuery(rate("rerank_truncated_pairs_total"), "{{instance}}"),), width=6),
)  # fmt: skip

ROWS = {"Service": SERVICE, "Devices": DEVICES, "Quality": QUALITY, "Drift": DRIFT, "Re-ranking": RERANKING}
COLOURS = {
    DiagnosisCause.NONE: "green",
    DiagnosisCause.UNKNOWN: "gray",
    DiagnosisCause.USERS_CHANGED: "yellow",
    DiagnosisCause.LABELS_STALE: "orange",
    DiagnosisCause.INDEX_DEGRADED: "red",
    DiagnosisCause.MODEL_WORSE: "red",
    DiagnosisCause.MODEL_CHANGED: "dark-red",
}
