"""The alert about an index that takes changes: they are refused, or pile up because it cannot be compacted."""

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
        "documents because of its disk, or failed to compact its index more than once. Searches go on.",
        fires=(
            AlertCase(name="the disk is full", series={_FULL: "0x10 3x60"}, at="15m", labels=INSTANCE),
            AlertCase(name="the disk is for reading only", series={_REFUSED: "0x10 0+1x60"}, at="30m", labels=INSTANCE),
            AlertCase(name="no compaction succeeds", series={_COMPACTIONS: "0x10 0+1x60"}, at="20m", labels=INSTANCE),
        ),
        quiet=(
            AlertCase(name="all is well", series={_FULL: "0x60", _REFUSED: "0x60", _DONE: "0+1x60"}, at="30m"),
            AlertCase(name="one compaction failed, the next did not", series={_COMPACTIONS: "0x10 1x60"}, at="15m"),
            AlertCase(name="other requests fail", series={_OTHER: "0+1x60", _FULL: "0x60"}, at="30m"),
            AlertCase(name="the disk has room again", series={_FULL: "0x10 3x60"}, at="40m"),
        ),
        runbook=Runbook(
            meaning="`PUT` or `DELETE` at /documents was answered with 507 or 503, or the snapshot of the index could "
            "not be made anew, which is tried once a minute.",
            impact="What was refused is not in the index; its client was told so. What was acknowledged is there and "
            "is found. While nothing can be compacted, searches become slower with each change.",
            diagnosis=(
                "The log says which: `was not compacted`, with its cause; the answers of refused requests say it, too.",
                "`df -h` and `df -i` where INDEX.live lies; `mount` and `dmesg`, whether it was remounted for reading.",
                "`embedship_index_fresh_documents` and `embedship_index_tombstones`: how much waits for a compaction.",
            ),
            mitigation=(
                "Make room: a compaction needs the size of the index once more. Nothing has to be restarted.",
                "A disk that fails: copy INDEX and INDEX.live elsewhere while no process writes, and start there.",
            ),
        ),
    ),
)
