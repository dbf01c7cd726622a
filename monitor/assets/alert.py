"""Alert: the one source from which rules, promtool tests and runbooks are generated, so that they always agree."""

import re
from enum import StrEnum

import msgspec

INSTANCE = {"instance": "a:8080", "job": "embedship"}
JOB = {"job": "embedship"}


class AlertSeverity(StrEnum):
    """Who is notified, and how fast a person must look."""

    PAGE = "page"  # users get wrong, bad or no answers: a person must look now
    WARN = "warn"  # a person must look today


class Runbook(msgspec.Struct, frozen=True, kw_only=True):
    """Markdown texts: what the alert means, who is affected, how to find the cause, and how to end it."""

    meaning: str
    impact: str
    diagnosis: tuple[str, ...]
    mitigation: tuple[str, ...]


class AlertCase(msgspec.Struct, frozen=True, kw_only=True):
    """A test case: series in promtool's notation, one sample per minute, and whether the alert fires at a given time.

    labels: those of the alert that fires; None if it must not fire. value: how the alert's texts show the value.
    beside: the labels of other alerts that also fire on the same series, by name of the alert.
    """

    name: str
    series: dict[str, str]
    at: str
    labels: dict[str, str] | None = None
    value: str = ""
    beside: dict[str, dict[str, str]] = {}


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """One alert: rule, texts, test cases and runbook."""

    name: str
    severity: AlertSeverity
    expr: str
    lasting: str  # how long the expression must hold before the alert fires: `for`
    summary: str
    description: str
    fires: tuple[AlertCase, ...]
    quiet: tuple[AlertCase, ...]
    runbook: Runbook


def series(metric: str, **labels: str) -> str:
    """Return a series of the instance that the cases use; `labels` replace or add labels."""
    pairs = ",".join(f'{name}="{value}"' for name, value in sorted({**INSTANCE, **labels}.items()))
    return f"{metric}{{{pairs}}}"


# The series of an instance without problems; a case contains only the differences.
CALM = {
    series("up"): "1x430",
    series("embedship_ready"): "1x430",
    series("process_start_time_seconds"): "0x430",
    series("embedship_monitor_last_evaluation_timestamp_seconds"): "0+60x430",
    series("embedship_drift_interval_seconds"): "60x430",
}


def shown(text: str, labels: dict[str, str], value: str) -> str:
    """Return a text as Prometheus shows it: the templates used here are `$labels.NAME` and `$value | FORMAT`."""
    filled = re.sub(r"{{ \$labels\.(\w+) }}", lambda match: labels.get(match[1], ""), text)
    return re.sub(r"{{ \$value[^}]*}}", value, filled)
