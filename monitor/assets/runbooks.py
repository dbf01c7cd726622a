"""Writes the runbooks as Markdown: one page per alert, and a list of all."""

from embedship.monitor.assets.alert import Alert
from embedship.monitor.assets.rules import ALERTS

SEVERITIES = {"page": "a person must look now", "warn": "a person must look today"}


def runbooks() -> dict[str, str]:
    """Return the Markdown texts by file name."""
    return {"README.md": _list(), **{f"{alert.name}.md": _runbook(alert) for alert in ALERTS}}


def _list() -> str:
    rows = "\n".join(
        f"| [{a.name}]({a.name}.md) | {a.severity} | {a.runbook.meaning.split('. ')[0].rstrip('.')} |" for a in ALERTS
    )
    return f"# Runbooks\n\n| alert | severity | meaning |\n|---|---|---|\n{rows}\n"


def _runbook(alert: Alert) -> str:
    book = alert.runbook
    return f"""# {alert.name}

Severity **{alert.severity}**: {SEVERITIES[alert.severity]}. It fires if this expression holds for {alert.lasting}:

```promql
{alert.expr.strip()}
```

## Meaning

{book.meaning}

## Impact

{book.impact}

## Diagnosis

{_steps(book.diagnosis)}

## Mitigation

{_steps(book.mitigation)}
"""


def _steps(steps: tuple[str, ...]) -> str:
    return "\n".join(f"{number}. {step}" for number, step in enumerate(steps, 1))
