"""Alerts about single devices of an instance: the others answer for it, so that nobody is hurt yet."""

from embedship.monitor.assets.alert import INSTANCE, Alert, AlertCase, AlertSeverity, Runbook, series

_DEVICE = "on (namespace, job, instance, device)"
_LABELS = {**INSTANCE, "device": "cuda:1"}
_UP = series("embedship_device_up", device="cuda:1")
_RESTARTS = series("embedship_device_restarts_total", device="cuda:1")

# Not `up == 0` for five minutes: a device that is killed again and again is up in between.
_DOWN = "max_over_time(embedship_device_up[5m]) == 0"

_CAUSES = (
    "The log of the instance names device and cause: `killed by signal 9` is often memory (`dmesg`, or the cgroup's "
    "`memory.events`), `a forward pass has run for` is a hang, `did not start` gives its reason.",
    "`embedship_split_batches_total` rises with it: a text that kills its device; the log says when one is given up.",
    "CUDA: `nvidia-smi`, and `dmesg | grep -i xid`.",
)

DEVICES = (
    Alert(
        name="EmbedshipDeviceDown",
        severity=AlertSeverity.WARN,
        expr=f"{_DOWN}\n",
        lasting="1m",
        summary="{{ $labels.device }} of {{ $labels.instance }} is down",
        description="Device {{ $labels.device }} of {{ $labels.instance }} ({{ $labels.job }}) has taken no work for "
        "5 minutes. Its worker process is started again and again, and does not come up or does not give the vectors "
        "of the checkpoint.",
        fires=(
            AlertCase(name="it does not come back", series={_UP: "1x10 0x60"}, at="20m", labels=_LABELS),
            AlertCase(name="each start fails", series={_UP: "1x10 0x60", _RESTARTS: "0x10 0+2x60"}, at="20m",
                 labels=_LABELS),
        ),
        quiet=(
            AlertCase(name="all is well", series={_UP: "1x60", _RESTARTS: "0x60"}, at="20m"),
            AlertCase(name="it came back within 3 minutes", series={_UP: "1x10 0x3 1x60"}, at="14m"),
        ),
        runbook=Runbook(
            meaning="A worker process has not been up for 5 minutes, although it is started again at least every 30 s.",
            impact="The instance has fewer devices to compute with. With none left, /ready says so and requests wait.",
            diagnosis=(
                "`GET /info` lists the devices, `GET /ready` says how many of them are up.",
                *_CAUSES,
                "`golden check failed` in the log: the device computes wrong vectors, and is kept from work for that.",
            ),
            mitigation=(
                "Memory: raise the limit, lower `--batch-tokens`.",
                "A broken device: leave it out (`--devices`), or move the instance to another machine.",
            ),
        ),
    ),
    Alert(
        name="EmbedshipDeviceRestarted",
        severity=AlertSeverity.WARN,
        expr=f"increase(embedship_device_restarts_total[1h]) > 0\n  unless {_DEVICE} {_DOWN}\n",
        lasting="0m",
        summary="{{ $labels.device }} of {{ $labels.instance }} was started again",
        description="Within the last hour the worker process of device {{ $labels.device }} of {{ $labels.instance }} "
        "({{ $labels.job }}) died or hung, and was started again. What it computed was tried again elsewhere.",
        fires=(
            AlertCase(name="it was killed once", series={_UP: "1x60", _RESTARTS: "0x10 1x60"}, at="15m",
                labels=_LABELS),
            AlertCase(name="it is killed every other minute", series={_UP: "1x10 0 1 0 1 0 1 0 1 0 1 0 1 0 1 0 1x20",
                 _RESTARTS: "0x10 0+1x40"}, at="22m", labels=_LABELS),
        ),
        quiet=(
            AlertCase(name="nothing died", series={_UP: "1x60", _RESTARTS: "0x60"}, at="20m"),
            AlertCase(name="the instance itself was restarted", series={_UP: "1x60", _RESTARTS: "3x10 0x60"}, at="80m"),
        ),
        runbook=Runbook(
            meaning="A worker process ended that should not have, or a forward pass ran longer than "
            "`--stall-seconds` and than the pace of the device allows, and was ended.",
            impact="None that users see, if it stays with one: its batch was tried again. Until it is up again, which "
            "takes seconds, there is less capacity.",
            diagnosis=_CAUSES,
            mitigation=(
                "Memory: raise the limit, lower `--batch-tokens`.",
                "A text that kills: take it from the log of its client, and report it with the bundle's variant; "
                "another variant (`--variant`) may encode it.",
                "A hang under heavy load of the machine: raise `--stall-seconds`.",
            ),
        ),
    ),
)  # fmt: skip
