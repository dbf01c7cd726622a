"""What the dashboard shows, as data: rows of panels, each with its queries and what its reader must know."""

from enum import StrEnum
from typing import NamedTuple

from embedship.monitor.assets.recording import QUIET, RERANKED
from embedship.monitor.diagnosis import Cause

# What the dashboard's variables choose, in every query.
CHOSEN = 'job="$job", instance=~"$instance"'
_RATE = "[$__rate_interval]"


class Kind(StrEnum):
    LINES = "timeseries"
    STATES = "state-timeline"
    NUMBER = "stat"
    TABLE = "table"


class Query(NamedTuple):
    expr: str
    legend: str


class Panel(NamedTuple):
    title: str
    description: str
    queries: tuple[Query, ...]
    unit: str = "short"
    kind: Kind = Kind.LINES
    width: int = 8  # of 24


def series(name: str, **labels: str) -> str:
    """A series of the chosen instances; `route__not` stands for a pattern that must not fit."""
    pairs = [
        f'{key.removesuffix("__not")}{"!~" if key.endswith("__not") else "="}"{value}"' for key, value in labels.items()
    ]
    return f"embedship_{name}{{{', '.join([CHOSEN, *pairs])}}}"


def rate(name: str, **labels: str) -> str:
    return f"rate({series(name, **labels)}{_RATE})"


def quantile(q: float, name: str, **labels: str) -> str:
    return f"histogram_quantile({q}, sum by (le) ({rate(name + '_bucket', **labels)}))"


def state(name: str, **labels: str) -> str:
    """0 unknown, 1 ok, 2 warn."""
    return (
        f"2 * {series(name, state='warn', **labels)}\n"
        f"  + ignoring (state) {series(name, state='ok', **labels)}"
    )  # fmt: skip


def _quantiles(name: str, **labels: str) -> tuple[Query, ...]:
    return tuple(Query(quantile(q, name, **labels), f"p{q * 100:g}") for q in (0.5, 0.95, 0.99))


_WORK = {"route__not": QUIET}
_BY = "{{source}} {{instance}}"

SERVICE = (
    Panel("Diagnosis", "What the signals together point to. Unknown is not ok: it means that evidence is missing.",
          (Query(f"max by (cause) ({series('diagnosis')}) == 1", "{{cause}}"),), kind=Kind.NUMBER, width=6),
    Panel("Instances ready", "Instances that answer /ready with 200, of those that are scraped.",
          (Query(f"sum({series('ready')})", "ready"), Query(f"count({series('ready')})", "scraped")),
          kind=Kind.NUMBER, width=6),
    Panel("What runs", "Vectors of different fingerprints must not be compared.",
          (Query(series("info"), ""),), kind=Kind.TABLE, width=12),
    Panel("Requests a second", "Requests that somebody waits for, by route.",
          (Query(f"sum by (route) ({rate('requests_total', **_WORK)})", "{{route}}"),), unit="reqps"),
    Panel("Time of a search", "From the request line to the last byte of the answer; searches that are re-ranked have "
          "a row of their own.", _quantiles("request_seconds", route="/search"), unit="s"),
    Panel("Refused and failed", "Refused: the client's fault, the queue was full (overloaded), or the deadline it "
          "chose passed (expired). Failed: ours.",
          (Query(f"sum by (reason) ({rate('rejections_total')})", "refused: {{reason}}"),
           Query(f"sum by (reason) ({rate('failures_total')})", "failed: {{reason}}")), unit="reqps"),
    Panel("Texts in the queue", "Waiting for a device, and admitted but not yet answered.",
          (Query(series("queue_texts"), "waiting {{instance}}"),
           Query(series("permits_in_use"), "admitted {{instance}}"))),
    Panel("Age of the oldest text that waits", "By lane, when it was scraped. It grows while no device takes work, and "
          "while more comes than is done.",
          (Query(series("queue_age_seconds"), "{{lane}} {{instance}}"),), unit="s"),
    Panel("Where the time goes, 99th percentile", "Texts to tokens, waiting for a device, a batch on it, the index, "
          "and writing the answer.",
          (Query(quantile(0.99, "tokenise_seconds"), "tokenise"),
           *(Query(quantile(0.99, "queue_seconds", lane=lane), f"queue, {lane}") for lane in ("interactive", "bulk")),
           Query(quantile(0.99, "inference_seconds"), "batch"),
           Query(quantile(0.99, "search_seconds"), "index"),
           Query(quantile(0.99, "serialise_seconds"), "serialise")), unit="s"),
    Panel("Truncated texts a second", "Texts longer than the model reads: their ends have no part in the vector.",
          (Query(f"sum({rate('truncated_texts_total')})", "truncated"),), unit="short", width=24),
)  # fmt: skip

DEVICES = (
    Panel("Devices up", "Of each instance, and how many it has.",
          (Query(f"sum by (instance) ({series('device_up')})", "up {{instance}}"),
           Query(f"count by (instance) ({series('device_up')})", "limit: {{instance}}"))),
    Panel("Worker processes lost", "Started again, batches tried again, and batches taken apart, since the start.",
          (Query(series('device_restarts_total'), "restarts {{device}} {{instance}}"),
           Query(series('retried_batches_total'), "tried again {{instance}}"),
           Query(series('split_batches_total'), "taken apart {{instance}}"))),
    Panel("Busy", "Streams that compute, by device.",
          (Query(rate("device_busy_seconds_total"), "{{device}} {{instance}}"),)),
    Panel("Texts a second", "By instance.", (Query(rate("texts_total"), "{{instance}}"),)),
    Panel("Tokens a second", "Without padding, by instance.", (Query(rate("tokens_total"), "{{instance}}"),)),
    Panel("Padding", "Share of computed tokens that are padding.",
          (Query(f"1 - {rate('tokens_total')} / ({rate('padded_tokens_total')} > 0)", "{{instance}}"),),
          unit="percentunit"),
    Panel("Time of a batch, 95th percentile", "By device: one that is slower than the others holds them up.",
          (Query(f"histogram_quantile(0.95, sum by (le, device) ({rate('inference_seconds_bucket')}))", "{{device}}"),),
          unit="s"),
    Panel("Texts in a batch", "Mean.",
          (Query(f"{rate('batch_texts_sum')} / ({rate('batch_texts_count')} > 0)", "{{instance}}"),)),
    Panel("CPU and memory", "Cores in use, and resident memory (right axis).",
          (Query(f"rate(process_cpu_seconds_total{{{CHOSEN}}}{_RATE})", "cores {{instance}}"),
           Query(f"process_resident_memory_bytes{{{CHOSEN}}}", "memory {{instance}}"))),
    Panel("Canary cosine", "Lowest cosine of texts that are always the same, by device: to the checkpoint (golden) and "
          "to the device's own vectors at start. Below the floor the device is damaged.",
          (Query(series("canary_cosine") + " > 0", "{{against}} {{device}} {{instance}}"),
           Query(f"max by (against, device) ({series('canary_cosine_floor')})", "floor: {{against}} {{device}}")),
          width=16),
    Panel("Canaries", "Do the golden texts get their vectors, on every device?",
          (Query(state("canary_state"), "{{instance}}"),), kind=Kind.STATES),
)  # fmt: skip

QUALITY = (
    Panel("Recall@10", "Rolling, with its 95% interval by query. shadow: the index against an exact search. probe: "
          "labelled questions, replayed. feedback: what users said was right. Nothing is drawn where nothing was "
          "measured.",
          (Query(f"{series('recall_rolling_ratio')} and {series('recall_queries_total')} > 0", _BY),
           Query(f"{series('recall_rolling_lower_ratio')} and {series('recall_queries_total')} > 0", f"lower {_BY}"),
           Query(f"{series('recall_rolling_upper_ratio')} and {series('recall_queries_total')} > 0", f"upper {_BY}"),
           Query(f"{series('recall_baseline_ratio')} > 0", f"baseline {_BY}")), unit="percentunit", width=16),
    Panel("Recall states", "By the configured rule.",
          (Query(state("recall_state"), _BY),), kind=Kind.STATES),
    Panel("Evidence of a fall", "Gathered query by query; it warns from the limit on, which is the number of queries "
          "between false alarms, on average.",
          (Query(series("recall_evidence"), _BY),
           Query(f"max by (source) ({series('recall_evidence_limit')})", "limit: {{source}}"))),
    Panel("Queries compared a second", "On how many recall rests, by source.",
          (Query(rate("recall_queries_total"), _BY),
           Query(rate("shadow_skipped_queries_total"), "skipped, exact search too dear {{instance}}"))),
    Panel("Probes: nDCG@10", "Of the last whole replay, and of the first.",
          (Query(f"{series('probe_ndcg_ratio')} > 0", "{{instance}}"),
           Query(f"{series('probe_ndcg_baseline_ratio')} > 0", "baseline {{instance}}")), unit="percentunit"),
    Panel("Labels that the index does not hold", "They cannot be found: recall of probes is too low by their share.",
          (Query(series("probe_missing_labels"), "{{instance}}"),), width=12),
    Panel("Answers that can still be judged", "Kept for POST /feedback.",
          (Query(series("feedback_answers"), "{{instance}}"),), width=12),
)  # fmt: skip

DRIFT = (
    Panel("Drift", "Of the queries, against the reference, by the configured rule.",
          (Query(state("drift_state"), "{{instance}}"),), kind=Kind.STATES),
    Panel("Score", "Squared shift of the mean, about 1 without drift; with drift above its threshold.",
          (Query(f"{series('drift_score')} > 0", "{{instance}}"),
           Query(f"{series('drift_score_threshold')} > 0", "threshold {{instance}}"))),
    Panel("Effect", "Shift of the mean beyond noise, in standard deviations; it matters above the floor.",
          (Query(series("drift_effect"), "{{instance}}"),
           Query(f"{series('drift_effect_floor')} > 0", "floor {{instance}}"))),
    Panel("Dimensions that moved", "Share with p < 0.05 by the KS test (5% without drift), and after corrections.",
          (Query(series("drift_dimensions_ratio"), "p < 0.05 {{instance}}"),
           Query(series("drift_discovery_dimensions_ratio"), "Benjamini and Hochberg {{instance}}"),
           Query(series("drift_bonferroni_dimensions_ratio"), "Bonferroni {{instance}}")), unit="percentunit"),
    Panel("Queries of no known topic", "Share; without drift as held-out parts of the reference show it.",
          (Query(series("drift_far_ratio"), "{{instance}}"),
           Query(f"{series('drift_far_usual_ratio')} > 0", "without drift {{instance}}")), unit="percentunit"),
    Panel("Queries tested", "In the window, distinct, and worth as much evidence as so many independent ones.",
          (Query(series("drift_window_queries"), "window {{instance}}"),
           Query(series("drift_distinct_queries"), "distinct {{instance}}"),
           Query(series("drift_effective_queries"), "effective {{instance}}"))),
    Panel("False alarms a day", "Promised by the budget, and measured on held-out blocks of the reference, with the "
          "ends of its 95% interval.",
          (Query(f"max by (kind) ({series('drift_false_alarms_per_day')})", "{{kind}}"),)),
    Panel("Age of the last evaluation", "The monitor's own pulse.",
          (Query(f"time() - ({series('monitor_last_evaluation_timestamp_seconds')} > 0)", "{{instance}}"),), unit="s"),
    Panel("Monitor: dropped and failed", "Queries it had no room for, and exceptions it caught, a second.",
          (Query(rate("monitor_dropped_total"), "dropped {{instance}}"),
           Query(f"sum by (part) ({rate('monitor_failures_total')})", "failed: {{part}}"))),
)  # fmt: skip

RERANKING = (
    Panel("Pairs a second", "Query and passage, scored together. Empty where no server has a re-ranker.",
          (Query(rate("rerank_pairs_total"), "{{instance}}"),), width=6),
    Panel("Time of a re-ranked search", "From the request line to the last byte of the answer. More passages a query, "
          "more time: no alert knows how long yours may take.",
          _quantiles("request_seconds", route=RERANKED), unit="s", width=6),
    Panel("Where the time of re-ranking goes, 99th percentile", "Pairs to tokens, waiting for a device, and a batch.",
          (Query(quantile(0.99, "rerank_tokenise_seconds"), "tokenise"),
           Query(quantile(0.99, "rerank_queue_seconds"), "queue"),
           Query(quantile(0.99, "rerank_inference_seconds"), "batch")), unit="s", width=6),
    Panel("Truncated pairs a second", "Longer than the re-ranker reads: the end of the longer half has no part in the "
          "score.",
          (Query(rate("rerank_truncated_pairs_total"), "{{instance}}"),), width=6),
)  # fmt: skip

ROWS = {"Service": SERVICE, "Devices": DEVICES, "Quality": QUALITY, "Drift": DRIFT, "Re-ranking": RERANKING}
COLOURS = {
    Cause.NONE: "green",
    Cause.UNKNOWN: "gray",
    Cause.USERS_CHANGED: "yellow",
    Cause.LABELS_STALE: "orange",
    Cause.INDEX_DEGRADED: "red",
    Cause.MODEL_WORSE: "red",
    Cause.MODEL_CHANGED: "dark-red",
}
