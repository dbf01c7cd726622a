"""What an alert is. Rules, promtool tests and runbooks are all made from this, so they cannot say different things."""

import re
from enum import StrEnum

import msgspec

INSTANCE = {"instance": "a:8080", "job": "embedship"}
JOB = {"job": "embedship"}


class AlertSeverity(StrEnum):
    PAGE = "page"  # users get wrong, bad or no answers: someone must look now
    WARN = "warn"  # someone must look today


class Runbook(msgspec.Struct, frozen=True, kw_only=True):
    """Markdown: what the alert means, who is hurt, how to find the cause, what ends it."""

    meaning: str
    impact: str
    diagnosis: tuple[str, ...]
    mitigation: tuple[str, ...]


class AlertCase(msgspec.Struct, frozen=True, kw_only=True):
    """Series, in promtool's notation with a sample a minute, and whether the alert fires on them at a time.

    labels are those of the alert that fires; None: it does not. value is what its texts show for the value. beside
    holds the other alerts that rightly fire on the same series, by name, with their labels.
    """

    name: str
    series: dict[str, str]
    at: str
    labels: dict[str, str] | None = None
    value: str = ""
    beside: dict[str, dict[str, str]] = {}


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    severity: AlertSeverity
    expr: str
    lasting: str  # how long before it fires: `for`
    summary: str
    description: str
    fires: tuple[AlertCase, ...]
    quiet: tuple[AlertCase, ...]
    runbook: Runbook


def series(metric: str, **labels: str) -> str:
    """A series of the one instance that the cases are about; labels may say otherwise."""
    pairs = ",".join(f'{name}="{value}"' for name, value in sorted({**INSTANCE, **labels}.items()))
    return f"{metric}{{{pairs}}}"


# What a calm instance exports; a case says only what is different.
CALM = {
    series("up"): "1x430",
    series("embedship_ready"): "1x430",
    series("process_start_time_seconds"): "0x430",
    series("embedship_monitor_last_evaluation_timestamp_seconds"): "0+60x430",
    series("embedship_drift_interval_seconds"): "60x430",
}


def shown(text: str, labels: dict[str, str], value: str) -> str:
    """A text as Prometheus shows it: the templates used here are `$labels.NAME` and `$value | FORMAT`."""
    filled = re.sub(r"{{ \$labels\.(\w+) }}", lambda found: labels.get(found[1], ""), text)
    return re.sub(r"{{ \$value[^}]*}}", value, filled)
