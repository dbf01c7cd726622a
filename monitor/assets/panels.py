"""What the dashboard shows, as data: rows of panels, each with its queries and what its reader must know."""

from enum import StrEnum
from typing import NamedTuple

from embedship.monitor.assets.recording import QUIET, RERANKED
from embedship.monitor.diagnosis import DiagnosisCause

# What the dashboard's variables choose, in every query.
CHOSEN = 'job="$job", instance=~"$instance"'
_RATE = "[$__rate_interval]"


class PanelKind(StrEnum):
    LINES = "timeseries"
    STATES = "state-timeline"
    NUMBER = "stat"
    TABLE = "table"


class PanelQuery(NamedTuple):
    expr: str
    legend: str


class DashboardPanel(NamedTuple):
    title: str
    description: str
    queries: tuple[PanelQuery, ...]
    unit: str = "short"
    kind: PanelKind = PanelKind.LINES
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


def _quantiles(name: str, **labels: str) -> tuple[PanelQuery, ...]:
    return tuple(PanelQuery(quantile(q, name, **labels), f"p{q * 100:g}") for q in (0.5, 0.95, 0.99))


_WORK = {"route__not": QUIET}
_BY = "{{source}} {{instance}}"

SERVICE = (
    DashboardPanel("Diagnosis",
        "What the signals together point to. Unknown is not ok: it means that evidence is missing.",
          (PanelQuery(f"max by (cause) ({series('diagnosis')}) == 1", "{{cause}}"),), kind=PanelKind.NUMBER, width=6),
    DashboardPanel("Instances ready", "Instances that answer /ready with 200, of those that are scraped.",
          (PanelQuery(f"sum({series('ready')})", "ready"), PanelQuery(f"count({series('ready')})", "scraped")),
          kind=PanelKind.NUMBER, width=6),
    DashboardPanel("What runs", "Vectors of different fingerprints must not be compared.",
          (PanelQuery(series("info"), ""),), kind=PanelKind.TABLE, width=12),
    DashboardPanel("Requests a second", "Requests that somebody waits for, by route.",
          (PanelQuery(f"sum by (route) ({rate('requests_total', **_WORK)})", "{{route}}"),), unit="reqps"),
    DashboardPanel("Time of a search",
        "From the request line to the last byte of the answer; searches that are re-ranked have "
          "a row of their own.", _quantiles("request_seconds", route="/search"), unit="s"),
    DashboardPanel("Refused and failed",
        "Refused: the client's fault, the queue was full (overloaded), or the deadline it "
          "chose passed (expired). Failed: ours.",
          (PanelQuery(f"sum by (reason) ({rate('rejections_total')})", "refused: {{reason}}"),
           PanelQuery(f"sum by (reason) ({rate('failures_total')})", "failed: {{reason}}")), unit="reqps"),
    DashboardPanel("Texts in the queue", "Waiting for a device, and admitted but not yet answered.",
          (PanelQuery(series("queue_texts"), "waiting {{instance}}"),
           PanelQuery(series("permits_in_use"), "admitted {{instance}}"))),
    DashboardPanel("Age of the oldest text that waits",
        "By lane, when it was scraped. It grows while no device takes work, and "
          "while more comes than is done.",
          (PanelQuery(series("queue_age_seconds"), "{{lane}} {{instance}}"),), unit="s"),
    DashboardPanel("Where the time goes, 99th percentile",
        "Texts to tokens, waiting for a device, a batch on it, the index, "
          "and writing the answer.",
          (PanelQuery(quantile(0.99, "tokenise_seconds"), "tokenise"),
           *(PanelQuery(quantile(0.99, "queue_seconds", lane=lane), f"queue, {lane}") for lane in ("interactive",
               "bulk")),
           PanelQuery(quantile(0.99, "inference_seconds"), "batch"),
           PanelQuery(quantile(0.99, "search_seconds"), "index"),
           PanelQuery(quantile(0.99, "serialise_seconds"), "serialise")), unit="s"),
    DashboardPanel("Truncated texts a second",
        "Texts longer than the model reads: their ends have no part in the vector.",
          (PanelQuery(f"sum({rate('truncated_texts_total')})", "truncated"),), unit="short", width=24),
)  # fmt: skip

DEVICES = (
    DashboardPanel("Devices up", "Of each instance, and how many it has.",
          (PanelQuery(f"sum by (instance) ({series('device_up')})", "up {{instance}}"),
           PanelQuery(f"count by (instance) ({series('device_up')})", "limit: {{instance}}"))),
    DashboardPanel("Worker processes lost",
        "Started again, batches tried again, and batches taken apart, since the start.",
          (PanelQuery(series('device_restarts_total'), "restarts {{device}} {{instance}}"),
           PanelQuery(series('retried_batches_total'), "tried again {{instance}}"),
           PanelQuery(series('split_batches_total'), "taken apart {{instance}}"))),
    DashboardPanel("Busy", "Streams that compute, by device.",
          (PanelQuery(rate("device_busy_seconds_total"), "{{device}} {{instance}}"),)),
    DashboardPanel("Texts a second", "By instance.", (PanelQuery(rate("texts_total"), "{{instance}}"),)),
    DashboardPanel("Tokens a second", "Without padding, by instance.", (PanelQuery(rate("tokens_total"),
        "{{instance}}"),)),
    DashboardPanel("Padding", "Share of computed tokens that are padding.",
          (PanelQuery(f"1 - {rate('tokens_total')} / ({rate('padded_tokens_total')} > 0)", "{{instance}}"),),
          unit="percentunit"),
    DashboardPanel("Time of a batch, 95th percentile", "By device: one that is slower than the others holds them up.",
          (PanelQuery(f"histogram_quantile(0.95, sum by (le, device) ({rate('inference_seconds_bucket')}))",
              "{{device}}"),),
          unit="s"),
    DashboardPanel("Texts in a batch", "Mean.",
          (PanelQuery(f"{rate('batch_texts_sum')} / ({rate('batch_texts_count')} > 0)", "{{instance}}"),)),
    DashboardPanel("CPU and memory", "Cores in use, and resident memory (right axis).",
          (PanelQuery(f"rate(process_cpu_seconds_total{{{CHOSEN}}}{_RATE})", "cores {{instance}}"),
           PanelQuery(f"process_resident_memory_bytes{{{CHOSEN}}}", "memory {{instance}}"))),
    DashboardPanel("Canary cosine",
        "Lowest cosine of texts that are always the same, by device: to the checkpoint (golden) and "
          "to the device's own vectors at start. Below the floor the device is damaged.",
          (PanelQuery(series("canary_cosine") + " > 0", "{{against}} {{device}} {{instance}}"),
           PanelQuery(f"max by (against, device) ({series('canary_cosine_floor')})", "floor: {{against}} {{device}}")),
          width=16),
    DashboardPanel("Canaries", "Do the golden texts get their vectors, on every device?",
          (PanelQuery(state("canary_state"), "{{instance}}"),), kind=PanelKind.STATES),
)  # fmt: skip

QUALITY = (
    DashboardPanel("Recall@10",
        "Rolling, with its 95% interval by query. shadow: the index against an exact search. probe: "
          "labelled questions, replayed. feedback: what users said was right. Nothing is drawn where nothing was "
          "measured.",
          (PanelQuery(f"{series('recall_rolling_ratio')} and {series('recall_queries_total')} > 0", _BY),
           PanelQuery(f"{series('recall_rolling_lower_ratio')} and {series('recall_queries_total')} > 0",
               f"lower {_BY}"),
           PanelQuery(f"{series('recall_rolling_upper_ratio')} and {series('recall_queries_total')} > 0",
               f"upper {_BY}"),
           PanelQuery(f"{series('recall_baseline_ratio')} > 0", f"baseline {_BY}")), unit="percentunit", width=16),
    DashboardPanel("Recall states", "By the configured rule.",
          (PanelQuery(state("recall_state"), _BY),), kind=PanelKind.STATES),
    DashboardPanel("Evidence of a fall",
        "Gathered query by query; it warns from the limit on, which is the number of queries "
          "between false alarms, on average.",
          (PanelQuery(series("recall_evidence"), _BY),
           PanelQuery(f"max by (source) ({series('recall_evidence_limit')})", "limit: {{source}}"))),
    DashboardPanel("Queries compared a second", "On how many recall rests, by source.",
          (PanelQuery(rate("recall_queries_total"), _BY),
           PanelQuery(rate("shadow_skipped_queries_total"), "skipped, exact search too dear {{instance}}"))),
    DashboardPanel("Probes: nDCG@10", "Of the last whole replay, and of the first.",
          (PanelQuery(f"{series('probe_ndcg_ratio')} > 0", "{{instance}}"),
           PanelQuery(f"{series('probe_ndcg_baseline_ratio')} > 0", "baseline {{instance}}")), unit="percentunit"),
    DashboardPanel("Labels that the index does not hold",
        "They cannot be found: recall of probes is too low by their share.",
          (PanelQuery(series("probe_missing_labels"), "{{instance}}"),), width=12),
    DashboardPanel("Answers that can still be judged", "Kept for POST /feedback.",
          (PanelQuery(series("feedback_answers"), "{{instance}}"),), width=12),
)  # fmt: skip

DRIFT = (
    DashboardPanel("Drift", "Of the queries, against the reference, by the configured rule.",
          (PanelQuery(state("drift_state"), "{{instance}}"),), kind=PanelKind.STATES),
    DashboardPanel("Score", "Squared shift of the mean, about 1 without drift; with drift above its threshold.",
          (PanelQuery(f"{series('drift_score')} > 0", "{{instance}}"),
           PanelQuery(f"{series('drift_score_threshold')} > 0", "threshold {{instance}}"))),
    DashboardPanel("Effect", "Shift of the mean beyond noise, in standard deviations; it matters above the floor.",
          (PanelQuery(series("drift_effect"), "{{instance}}"),
           PanelQuery(f"{series('drift_effect_floor')} > 0", "floor {{instance}}"))),
    DashboardPanel("Dimensions that moved",
        "Share with p < 0.05 by the KS test (5% without drift), and after corrections.",
          (PanelQuery(series("drift_dimensions_ratio"), "p < 0.05 {{instance}}"),
           PanelQuery(series("drift_discovery_dimensions_ratio"), "Benjamini and Hochberg {{instance}}"),
           PanelQuery(series("drift_bonferroni_dimensions_ratio"), "Bonferroni {{instance}}")), unit="percentunit"),
    DashboardPanel("Queries of no known topic", "Share; without drift as held-out parts of the reference show it.",
          (PanelQuery(series("drift_far_ratio"), "{{instance}}"),
           PanelQuery(f"{series('drift_far_usual_ratio')} > 0", "without drift {{instance}}")), unit="percentunit"),
    DashboardPanel("Queries tested", "In the window, distinct, and worth as much evidence as so many independent ones.",
          (PanelQuery(series("drift_window_queries"), "window {{instance}}"),
           PanelQuery(series("drift_distinct_queries"), "distinct {{instance}}"),
           PanelQuery(series("drift_effective_queries"), "effective {{instance}}"))),
    DashboardPanel("False alarms a day",
        "Promised by the budget, and measured on held-out blocks of the reference, with the "
          "ends of its 95% interval.",
          (PanelQuery(f"max by (kind) ({series('drift_false_alarms_per_day')})", "{{kind}}"),)),
    DashboardPanel("Age of the last evaluation", "The monitor's own pulse.",
          (PanelQuery(f"time() - ({series('monitor_last_evaluation_timestamp_seconds')} > 0)", "{{instance}}"),),
          unit="s"),
    DashboardPanel("Monitor: dropped and failed", "Queries it had no room for, and exceptions it caught, a second.",
          (PanelQuery(rate("monitor_dropped_total"), "dropped {{instance}}"),
           PanelQuery(f"sum by (part) ({rate('monitor_failures_total')})", "failed: {{part}}"))),
)  # fmt: skip

RERANKING = (
    DashboardPanel("Pairs a second", "Query and passage, scored together. Empty where no server has a re-ranker.",
          (PanelQuery(rate("rerank_pairs_total"), "{{instance}}"),), width=6),
    DashboardPanel("Time of a re-ranked search",
        "From the request line to the last byte of the answer. More passages a query, "
          "more time: no alert knows how long yours may take.",
          _quantiles("request_seconds", route=RERANKED), unit="s", width=6),
    DashboardPanel("Where the time of re-ranking goes, 99th percentile",
        "Pairs to tokens, waiting for a device, and a batch.",
          (PanelQuery(quantile(0.99, "rerank_tokenise_seconds"), "tokenise"),
           PanelQuery(quantile(0.99, "rerank_queue_seconds"), "queue"),
           PanelQuery(quantile(0.99, "rerank_inference_seconds"), "batch")), unit="s", width=6),
    DashboardPanel("Truncated pairs a second",
        "Longer than the re-ranker reads: the end of the longer half has no part in the "
          "score.",
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
