"""Alerts about the monitor itself: a watchman who sleeps is worse than none, for all believe that someone watches."""

from embedship.monitor.assets.alert import INSTANCE, Alert, AlertCase, AlertSeverity, Runbook, series
from embedship.monitor.assets.quality import BEGINS, canary, drift, recall
from embedship.monitor.assets.service import KEY


def _watched(*signals: str) -> dict[str, str]:
    return {series("embedship_signal_watched", signal=signal): "1x430" for signal in signals}


PULSE = (
    Alert(
        name="EmbedshipMonitorStale",
        severity=AlertSeverity.WARN,
        expr=f"""\
time() - (
  embedship_monitor_last_evaluation_timestamp_seconds > 0
  or {KEY} (process_start_time_seconds and {KEY} embedship_ready)
) > {KEY} 300 + 3 * embedship_drift_interval_seconds
""",
        lasting="5m",
        summary="The monitor of {{ $labels.instance }} has stopped",
        description="{{ $labels.instance }} ({{ $labels.job }}) has not evaluated its queries for "
        "{{ $value | humanizeDuration }}: what its drift and recall series say is old.",
        fires=(
            AlertCase(name="its clock stands still",
                 series={series("embedship_monitor_last_evaluation_timestamp_seconds"): "0+60x10 600x60"}, at="24m",
                 labels=INSTANCE, value="14m 0s"),
            AlertCase(name="it never began",
                 series={series("embedship_monitor_last_evaluation_timestamp_seconds"): "0x60"}, at="24m",
                 labels=INSTANCE, value="24m 0s"),
        ),
        quiet=(
            AlertCase(name="it has just started", series={series("process_start_time_seconds"): "1200x60",
                 series("embedship_monitor_last_evaluation_timestamp_seconds"): "0x60"}, at="24m"),
            AlertCase(name="it is asked to look once an hour",
                series={series("embedship_drift_interval_seconds"): "3600x60",
                 series("embedship_monitor_last_evaluation_timestamp_seconds"): "60x60"}, at="50m"),
        ),
        runbook=Runbook(
            meaning="The monitor's thread has not finished an evaluation for more than three of its intervals and five "
            "minutes.",
            impact="Users are served. Drift and shadow recall are not watched; do not trust their last states.",
            diagnosis=(
                "The log holds `monitoring failed` with a stack trace if it ended in an error; "
                "`embedship_monitor_failures_total` counts by part.",
                "Is the process starved? `rate(process_cpu_seconds_total[5m])` at its limit leaves it no time.",
            ),
            mitigation=(
                "Restart the instance; with `--state-dir` it goes on where it was.",
                "Starved: lower `--sample-rate` or `--shadow-rate`, or give it more CPU.",
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
      and {KEY} increase(embedship_monitor_queries_total[1h]) > 1000,
    "signal", "drift", "", ""
  )
  or label_replace(
    embedship_recall_state{{source="shadow", state="unknown"}}
      and {KEY} increase(embedship_monitor_queries_total[6h]) > 100000,
    "signal", "shadow", "", ""
  )
) == 1
  and on (namespace, job, instance, signal) embedship_signal_watched == 1
""",
        lasting="30m",
        summary="Nobody knows how the {{ $labels.signal }} of {{ $labels.instance }} is",
        description="The signal {{ $labels.signal }} of {{ $labels.instance }} ({{ $labels.job }}) is watched and has "
        "been unknown for half an hour, though there was traffic enough to decide. Unknown is not ok.",
        fires=(
            AlertCase(name="canaries are silent", series={**_watched("canary"), canary("unknown"): BEGINS}, at="41m",
                 labels={**INSTANCE, "signal": "canary"}),
            AlertCase(name="probes are not replayed", series={**_watched("probe"), recall("probe", "unknown"): BEGINS},
                 at="41m", labels={**INSTANCE, "signal": "probe"}),
            AlertCase(name="queries come, and drift stays unknown",
                 series={**_watched("drift"), drift("unknown"): "1x430",
                         series("embedship_monitor_queries_total"): "0+100x430"},
                 at="1h", labels={**INSTANCE, "signal": "drift"}),
            AlertCase(name="searches come, and none is compared",
                 series={**_watched("shadow"), recall("shadow", "unknown"): "1x430",
                         series("embedship_monitor_queries_total"): "0+1000x430"},
                 at="3h", labels={**INSTANCE, "signal": "shadow"}),
        ),
        quiet=(
            AlertCase(name="nobody asks, so nothing can be known",
                 series={**_watched("drift", "shadow"), drift("unknown"): "1x430",
                         recall("shadow", "unknown"): "1x430", series("embedship_monitor_queries_total"): "0x430"},
                 at="3h"),
            AlertCase(name="there are no probes", series={recall("probe", "unknown"): "1x200",
                 series("embedship_signal_watched", signal="probe"): "0x200"}, at="1h"),
            AlertCase(name="ten minutes at start", series={**_watched("canary"), canary("unknown"): "1x10 0x60"},
                at="40m"),
        ),
        runbook=Runbook(
            meaning="A signal that should be watched gives no answer, although there was enough to go by: 1,000 "
            "queries an hour for drift, 100,000 in six hours for the recall of the index, schedules for the others.",
            impact="Users are served. If quality falls now, this signal will not say so.",
            diagnosis=(
                "`GET /monitor` gives each signal's `reason` in words: a reference of another model, too few distinct "
                "queries, no whole replay, a device that does not answer.",
                "`embedship_shadow_skipped_queries_total` rises: exact searches cost more than they are allowed.",
                "`embedship_probe_replays_total` stands still: the queue is full, and the probes wait for a place. If "
                "`embedship_probe_failures_total` rises, a probe was answered with an error; the log says which.",
            ),
            mitigation=(
                "A reference of another model: fit one for this bundle (`embedship reference`).",
                "Exact searches too dear: allow them more, or sample more with `--shadow-rate`.",
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
        description="Exceptions are caught in part {{ $labels.part }} of the monitor of {{ $labels.instance }} "
        "({{ $labels.job }}); its log holds the stack trace.",
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
            meaning="Monitoring raised exceptions. They are caught, for the monitor must not break what it watches.",
            impact="Users are served; what that part watches may go unseen.",
            diagnosis=(
                "Search the log for `monitoring failed`: the stack trace is written at the 1st, 2nd, 4th, 8th... time.",
                "Part `snapshot`: is the disk of `--state-dir` full?",
            ),
            mitigation=(
                "Make room on the disk, if that is it: the next snapshot is tried within a minute.",
                "Else it is a bug of ours: report it with the stack trace.",
            ),
        ),
    ),
)  # fmt: skip
