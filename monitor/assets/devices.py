"""Alerts about single devices of an instance. The other devices take their work, so users notice nothing yet."""

from embedship.monitor.assets.alert import INSTANCE, Alert, AlertCase, AlertSeverity, Runbook, series

_DEVICE = "on (namespace, job, instance, device)"
_LABELS = {**INSTANCE, "device": "cuda:1"}
_UP = series("embedship_device_up", device="cuda:1")
_RESTARTS = series("embedship_device_restarts_total", device="cuda:1")

# Not `up == 0` for five minutes: a device that is killed repeatedly is up in between.
_DOWN = "max_over_time(embedship_device_up[5m]) == 0"

_CAUSES = (
    "The log of the instance names the device and the cause. `killed by signal 9`: often memory (check `dmesg`, or "
    "`memory.events` of the cgroup). `a forward pass has run for`: it hangs. `did not start`: followed by the reason.",
    "Does `embedship_split_batches_total` rise as well? Then a text crashes the device. The log says when a text is "
    "given up.",
    "CUDA: `nvidia-smi`, and `dmesg | grep -i xid`.",
)

DEVICES = (
    Alert(
        name="EmbedshipDeviceDown",
        severity=AlertSeverity.WARN,
        expr=f"{_DOWN}\n",
        lasting="1m",
        summary="Device {{ $labels.device }} of {{ $labels.instance }} is down",
        description="Device {{ $labels.device }} of {{ $labels.instance }} ({{ $labels.job }}) has done no work for "
        "5 minutes. Its worker process is restarted repeatedly, but does not start or gives wrong vectors.",
        fires=(
            AlertCase(name="it does not come back", series={_UP: "1x10 0x60"}, at="20m", labels=_LABELS),
            AlertCase(name="each start fails", series={_UP: "1x10 0x60", _RESTARTS: "0x10 0+2x60"}, at="20m",
                 labels=_LABELS),
        ),
        quiet=(
            AlertCase(name="nothing is wrong", series={_UP: "1x60", _RESTARTS: "0x60"}, at="20m"),
            AlertCase(name="it came back within 3 minutes", series={_UP: "1x10 0x3 1x60"}, at="14m"),
        ),
        runbook=Runbook(
            meaning="A worker process has been down for 5 minutes, although it is restarted at least every 30 s.",
            impact="The instance has fewer devices. If none is left, /ready reports it and requests wait.",
            diagnosis=(
                "`GET /info` lists the devices, `GET /ready` says how many of them are up.",
                *_CAUSES,
                "`golden check failed` in the log: the device computes wrong vectors and therefore gets no work.",
            ),
            mitigation=(
                "Memory: raise the limit, or lower `--batch-tokens`.",
                "A broken device: exclude it (`--devices`), or move the instance to another machine.",
            ),
        ),
    ),
    Alert(
        name="EmbedshipDeviceRestarted",
        severity=AlertSeverity.WARN,
        expr=f"increase(embedship_device_restarts_total[1h]) > 0\n  unless {_DEVICE} {_DOWN}\n",
        lasting="0m",
        summary="Device {{ $labels.device }} of {{ $labels.instance }} was restarted",
        description="Within the last hour the worker process of device {{ $labels.device }} of {{ $labels.instance }} "
        "({{ $labels.job }}) died or hung, and was restarted. Its work was tried again on another device.",
        fires=(
            AlertCase(name="it was killed once", series={_UP: "1x60", _RESTARTS: "0x10 1x60"}, at="15m",
                labels=_LABELS),
            AlertCase(name="it is killed every second minute", series={_UP: "1x10 0 1 0 1 0 1 0 1 0 1 0 1 0 1 0 1x20",
                 _RESTARTS: "0x10 0+1x40"}, at="22m", labels=_LABELS),
        ),
        quiet=(
            AlertCase(name="nothing died", series={_UP: "1x60", _RESTARTS: "0x60"}, at="20m"),
            AlertCase(name="the instance itself was restarted", series={_UP: "1x60", _RESTARTS: "3x10 0x60"}, at="80m"),
        ),
        runbook=Runbook(
            meaning="A worker process ended unexpectedly, or it was ended because a forward pass ran longer than "
            "`--stall-seconds` and longer than the speed of the device explains.",
            impact="A single restart is not noticed by users: the batch is tried again. There is less capacity for the "
            "seconds until the device is up again.",
            diagnosis=_CAUSES,
            mitigation=(
                "Memory: raise the limit, or lower `--batch-tokens`.",
                "A text that crashes the device: get it from the log of its client, and report it with the variant of "
                "the bundle. Another variant (`--variant`) may encode it.",
                "The machine is heavily loaded and a pass hangs: raise `--stall-seconds`.",
            ),
        ),
    ),
)  # fmt: skip
