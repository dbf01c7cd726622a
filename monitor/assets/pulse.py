"""Alerts that fire when the monitor itself stops working."""

from embedship.monitor.assets.alert import INSTANCE, Alert, AlertCase, AlertSeverity, Runbook, series
from embedship.monitor.assets.quality import BEGINS, canary, drift, recall
from embedship.monitor.assets.recording import ON_INSTANCE


def _watched(*signals: str) -> dict[str, str]:
    return {series("embedship_signal_watched", signal=signal): "1x430" for signal in signals}


PULSE = (
    Alert(
        name="EmbedshipMonitorStale",
        severity=AlertSeverity.WARN,
        expr=f"""\
time() - (
  embedship_monitor_last_evaluation_timestamp_seconds > 0
  or {ON_INSTANCE} (process_start_time_seconds and {ON_INSTANCE} embedship_ready)
) > {ON_INSTANCE} 300 + 3 * embedship_drift_interval_seconds
""",
        lasting="5m",
        summary="The monitor of {{ $labels.instance }} has stopped",
        description="{{ $labels.instance }} ({{ $labels.job }}) has not evaluated its queries for "
        "{{ $value | humanizeDuration }}. Its drift and recall metrics are out of date.",
        fires=(
            AlertCase(name="its clock stands still",
                 series={series("embedship_monitor_last_evaluation_timestamp_seconds"): "0+60x10 600x60"}, at="24m",
                 labels=INSTANCE, value="14m 0s"),
            AlertCase(name="no evaluation ever finished",
                 series={series("embedship_monitor_last_evaluation_timestamp_seconds"): "0x60"}, at="24m",
                 labels=INSTANCE, value="24m 0s"),
        ),
        quiet=(
            AlertCase(name="it has just started", series={series("process_start_time_seconds"): "1200x60",
                 series("embedship_monitor_last_evaluation_timestamp_seconds"): "0x60"}, at="24m"),
            AlertCase(name="the interval is one hour",
                series={series("embedship_drift_interval_seconds"): "3600x60",
                 series("embedship_monitor_last_evaluation_timestamp_seconds"): "60x60"}, at="50m"),
        ),
        runbook=Runbook(
            meaning="The monitor's thread has not finished an evaluation for five minutes plus three of its intervals.",
            impact="Users are served. Drift and shadow recall are not monitored; do not trust their last states.",
            diagnosis=(
                "If it ended with an error, the log contains `monitoring failed` with a stack trace. "
                "`embedship_monitor_failures_total` counts errors by part.",
                "Does the process get too little CPU? Compare `rate(process_cpu_seconds_total[5m])` with its limit.",
            ),
            mitigation=(
                "Restart the instance. With `--state-dir` monitoring continues from its saved state.",
                "Too little CPU: lower `--sample-rate` or `--shadow-rate`, or raise the CPU limit.",
            ),
        ),
    ),
    Alert(
        name="EmbedshipMonitorUnknown",
        severity=AlertSeverity.WARN,
        expr=f"""\
max by (namespace, job, instance, signal) (
  label_replace(embedship_canary_state{{state="unknown"}}, "signal", "canary", "", "")
  or label_replace(embedship_recall_state{{source="probe", state="unknown"}}, "signal", "probe", "", "")
  or label_replace(
    embedship_drift_state{{state="unknown"}}
      and {ON_INSTANCE} increase(embedship_monitor_queries_total[1h]) > 1000,
    "signal", "drift", "", ""
  )
  or label_replace(
    embedship_recall_state{{source="shadow", state="unknown"}}
      and {ON_INSTANCE} increase(embedship_monitor_queries_total[6h]) > 100000,
    "signal", "shadow", "", ""
  )
) == 1
  and on (namespace, job, instance, signal) embedship_signal_watched == 1
""",
        lasting="30m",
        summary="The state of {{ $labels.signal }} at {{ $labels.instance }} is unknown",
        description="The signal {{ $labels.signal }} of {{ $labels.instance }} ({{ $labels.job }}) is monitored but "
        "has been unknown for half an hour, although there was enough traffic. Unknown does not mean ok.",
        fires=(
            AlertCase(name="no canary rounds", series={**_watched("canary"), canary("unknown"): BEGINS}, at="41m",
                 labels={**INSTANCE, "signal": "canary"}),
            AlertCase(name="probes are not replayed", series={**_watched("probe"), recall("probe", "unknown"): BEGINS},
                 at="41m", labels={**INSTANCE, "signal": "probe"}),
            AlertCase(name="drift stays unknown despite queries",
                 series={**_watched("drift"), drift("unknown"): "1x430",
                         series("embedship_monitor_queries_total"): "0+100x430"},
                 at="1h", labels={**INSTANCE, "signal": "drift"}),
            AlertCase(name="no search is compared despite queries",
                 series={**_watched("shadow"), recall("shadow", "unknown"): "1x430",
                         series("embedship_monitor_queries_total"): "0+1000x430"},
                 at="3h", labels={**INSTANCE, "signal": "shadow"}),
        ),
        quiet=(
            AlertCase(name="there are no queries, so unknown is normal",
                 series={**_watched("drift", "shadow"), drift("unknown"): "1x430",
                         recall("shadow", "unknown"): "1x430", series("embedship_monitor_queries_total"): "0x430"},
                 at="3h"),
            AlertCase(name="there are no probes", series={recall("probe", "unknown"): "1x200",
                 series("embedship_signal_watched", signal="probe"): "0x200"}, at="1h"),
            AlertCase(name="ten minutes after the start", series={**_watched("canary"), canary("unknown"): "1x10 0x60"},
                at="40m"),
        ),
        runbook=Runbook(
            meaning="A monitored signal has no result although there was enough data: 1,000 queries per hour for "
            "drift, 100,000 in six hours for the recall of the index, fixed schedules for the others.",
            impact="Users are served. If quality falls now, this signal will not show it.",
            diagnosis=(
                "`GET /monitor` gives the `reason` of each signal in words: a reference of another model, too few "
                "distinct queries, no complete replay, a device that does not answer.",
                "`embedship_shadow_skipped_queries_total` rises: exact searches cost more CPU than their budget.",
                "`embedship_probe_replays_total` does not rise: the queue is full, and the probes wait. If "
                "`embedship_probe_failures_total` rises, a probe was answered with an error; see the log.",
            ),
            mitigation=(
                "A reference of another model: fit one for this bundle (`embedship reference`).",
                "Exact searches cost too much: raise their budget, or sample more queries with `--shadow-rate`.",
                "Too full to replay: see EmbedshipQueueSaturated.",
            ),
        ),
    ),
    Alert(
        name="EmbedshipMonitorFailing",
        severity=AlertSeverity.WARN,
        expr="sum by (namespace, job, instance, part) (increase(embedship_monitor_failures_total[15m])) > 0\n",
        lasting="10m",
        summary="Part {{ $labels.part }} of the monitor of {{ $labels.instance }} fails",
        description="Part {{ $labels.part }} of the monitor of {{ $labels.instance }} ({{ $labels.job }}) raises "
        "exceptions. The log contains the stack trace.",
        fires=(
            AlertCase(name="exact searches fail", series={
                 series("embedship_monitor_failures_total", part="recall"): "0x5 0+1x60"}, at="30m",
                 labels={**INSTANCE, "part": "recall"}),
        ),
        quiet=(
            AlertCase(name="nothing fails", series={series("embedship_monitor_failures_total", part="recall"): "0x60"},
                 at="30m"),
        ),
        runbook=Runbook(
            meaning="The monitor raised exceptions. They are caught, so that the monitor cannot break the service.",
            impact="Users are served. Problems that this part should detect may go unnoticed.",
            diagnosis=(
                "Search the log for `monitoring failed`: the stack trace is logged at the 1st, 2nd, 4th, 8th... time.",
                "Part `snapshot`: is the disk of `--state-dir` full?",
            ),
            mitigation=(
                "Disk full: free disk space. The state is saved again within a minute.",
                "Otherwise it is a bug of embedship: report it with the stack trace.",
            ),
        ),
    ),
)  # fmt: skip
