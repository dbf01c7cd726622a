"""The alerts and the ratios below them, as Prometheus reads them."""

from typing import Any

import yaml

from embedship.monitor.assets import RUNBOOKS
from embedship.monitor.assets.alert import Alert
from embedship.monitor.assets.changes import CHANGES
from embedship.monitor.assets.connections import CONNECTIONS
from embedship.monitor.assets.devices import DEVICES
from embedship.monitor.assets.jobs import JOBS
from embedship.monitor.assets.pulse import PULSE
from embedship.monitor.assets.quality import QUALITY
from embedship.monitor.assets.recording import RATIOS, RecordedRatio
from embedship.monitor.assets.service import SERVICE

_SERVING = (*SERVICE, *CONNECTIONS, *DEVICES, *CHANGES, *JOBS)
_QUALITY = (*QUALITY, *PULSE)
ALERTS = (*_SERVING, *_QUALITY)
HEAD = "# Written by embedship from monitor/assets: change it there, or its tests and runbooks will not match.\n"


def rules() -> str:
    """Groups are evaluated side by side, rules of a group one after the other: an alert follows the ratio it reads."""
    groups = [
        {"name": "embedship-service", "rules": [*map(_record, RATIOS), *map(_alert, _SERVING)]},
        {"name": "embedship-quality", "rules": [*map(_alert, _QUALITY)]},
    ]
    return dump({"groups": groups})


def annotations(alert: Alert) -> dict[str, str]:
    return {
        "summary": alert.summary,
        "description": alert.description,
        "runbook_url": f"{RUNBOOKS}/{alert.name}.md",
    }


def _record(ratio: RecordedRatio) -> dict[str, Any]:
    return {"record": ratio.name, "expr": ratio.expr}


def _alert(alert: Alert) -> dict[str, Any]:
    return {
        "alert": alert.name,
        "expr": alert.expr,
        "for": alert.lasting,
        "labels": {"severity": str(alert.severity)},
        "annotations": annotations(alert),
    }


def dump(document: Any) -> str:
    return HEAD + yaml.dump(document, Dumper=_RuleDumper, sort_keys=False, width=10_000, allow_unicode=True)


class _RuleDumper(yaml.SafeDumper):
    """Expressions of several lines stay several lines, and no value is written as a reference to another."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_RuleDumper.add_representer(str, _text)
