"""The alert about an index that accepts changes: changes are refused, or the index cannot be compacted."""

from embedship.monitor.assets.alert import INSTANCE, Alert, AlertCase, AlertSeverity, Runbook, series
from embedship.monitor.assets.recording import BY_INSTANCE

_FULL = series("embedship_failures_total", reason="disk_full")
_REFUSED = series("embedship_failures_total", reason="not_stored")
_OTHER = series("embedship_failures_total", reason="engine")
_COMPACTIONS = series("embedship_index_compactions_total", result="failed")
_DONE = series("embedship_index_compactions_total", result="done")

CHANGES = (
    Alert(
        name="EmbedshipIndexNotWritten",
        severity=AlertSeverity.WARN,
        expr=f'sum {BY_INSTANCE} (increase(embedship_failures_total{{reason=~"disk_full|not_stored"}}[15m])) > 0\n'
        f'or\nsum {BY_INSTANCE} (increase(embedship_index_compactions_total{{result="failed"}}[15m])) > 1\n',
        lasting="0m",
        summary="The index of {{ $labels.instance }} cannot be written",
        description="Within the last 15 minutes {{ $labels.instance }} ({{ $labels.job }}) refused changes to "
        "documents because of its disk, or failed to compact its index more than once. Searches still work.",
        fires=(
            AlertCase(name="the disk is full", series={_FULL: "0x10 3x60"}, at="15m", labels=INSTANCE),
            AlertCase(name="the disk is read-only", series={_REFUSED: "0x10 0+1x60"}, at="30m", labels=INSTANCE),
            AlertCase(name="no compaction succeeds", series={_COMPACTIONS: "0x10 0+1x60"}, at="20m", labels=INSTANCE),
        ),
        quiet=(
            AlertCase(name="nothing is wrong", series={_FULL: "0x60", _REFUSED: "0x60", _DONE: "0+1x60"}, at="30m"),
            AlertCase(name="one compaction failed, the next did not", series={_COMPACTIONS: "0x10 1x60"}, at="15m"),
            AlertCase(name="other requests fail", series={_OTHER: "0+1x60", _FULL: "0x60"}, at="30m"),
            AlertCase(name="the disk has room again", series={_FULL: "0x10 3x60"}, at="40m"),
        ),
        runbook=Runbook(
            meaning="`PUT` or `DELETE` at /documents was answered with 507 or 503, or a new snapshot of the index "
            "could not be written, which is tried once per minute.",
            impact="Refused changes are not in the index; their clients got an error. Acknowledged changes are safe "
            "and are found. While the index cannot be compacted, each change makes searches slower.",
            diagnosis=(
                "The log says which case it is: `was not compacted`, with the cause. The answers to refused requests "
                "also name the cause.",
                "`df -h` and `df -i` for the folder of INDEX.live; `mount` and `dmesg`: was it remounted read-only?",
                "`embedship_index_fresh_documents` and `embedship_index_tombstones`: how much waits for a compaction.",
            ),
            mitigation=(
                "Free disk space: a compaction needs the size of the index once more. No restart is needed.",
                "A failing disk: copy INDEX and INDEX.live elsewhere while no process writes, and start there.",
            ),
        ),
    ),
)
