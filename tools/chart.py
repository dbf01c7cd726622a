"""What the chart takes from elsewhere, written into it: settings, alert rules, dashboard, its README's table of values.

    python -P tools/chart.py

`make chart` runs it. A setting of the server is said once, in serve/settings.py; so the chart's schema of `server` is
made from it, and a test says to run this when it was not.
"""

from __future__ import annotations

import dataclasses
import json
import re
import types
import typing
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

import yaml

from embedship.monitor.assets import shipped
from embedship.serve.settings import SettingRange, Settings

CHART = Path(__file__).parents[1] / "helm" / "embedship"
SCHEMA = "values.schema.json"
README = "README.md"

# The chart sets these itself, from values that also give volumes, ports and probes.
_SERVING = ("bundle", "index", "reranker", "cache", "state_dir", "api_key_file", "admin_key_file", "write_key_file")
OWNED = (*_SERVING, "host", "port", "metrics_port", "metrics_host", "drain_seconds")

_JSON = {bool: "boolean", int: "integer", float: "number"}
_BEGIN, _END = "<!-- values: written by tools/chart.py -->", "<!-- end of values -->"


class Value(NamedTuple):
    key: str
    default: str
    help: str


def settings_schema() -> dict[str, Any]:
    """The JSON Schema of `server`: one property a setting, with its type, range and help."""
    kinds = get_type_hints(Settings)
    return {
        field.name: _property(kinds[field.name], field.metadata.get("help"), field.metadata.get("allowed"))
        for field in dataclasses.fields(Settings)
        if field.name not in OWNED
    }


def _property(kind: Any, help: str | None, allowed: SettingRange | None) -> dict[str, Any]:
    members = get_args(kind) if get_origin(kind) in (types.UnionType, typing.Union) else (kind,)
    one = next(member for member in members if member is not type(None))
    name = _JSON.get(one, "string")
    # null is "the server's default": so that a values file can take back what another one gave.
    found: dict[str, Any] = {"type": [name, "null"], "description": help or ""}
    if isinstance(one, type) and issubclass(one, Enum):
        found["enum"] = [*(member.value for member in one), None]
    if allowed:
        low, high = (int(x) if float(x).is_integer() else x for x in allowed)
        found |= {"minimum": low, "maximum": high}
    return found


def values(chart: Path = CHART) -> list[Value]:
    """Every value that a comment `# --` explains, and every leaf besides, in the order of values.yaml."""
    text = (chart / "values.yaml").read_text()
    return list(_values(text, yaml.safe_load(text)))


def _values(text: str, defaults: dict[str, Any]) -> Iterator[Value]:
    path: list[str] = []
    help = ""
    hidden: int | None = None  # below a value that is shown whole
    for line in text.splitlines():
        if said := re.match(r"\s*# -- (.*)", line):
            help = said[1]
        elif key := re.match(r"( *)([\w.-]+):", line):
            depth = len(key[1]) // 2
            path = [*path[:depth], key[2]]
            if hidden is not None and depth > hidden:
                continue
            found: Any = defaults
            for part in path:
                found = found[part]
            nested = isinstance(found, dict) and bool(found) and line.rstrip().endswith(":")
            hidden = None if nested else depth
            if help or not nested:
                yield Value(".".join(path), "" if nested else json.dumps(found), help)
            help = ""


def table(chart: Path = CHART) -> str:
    rows = [f"| `{key}` | {f'`{default}`' if default else ''} | {help} |" for key, default, help in values(chart)]
    return "\n".join(["| value | default | meaning |", "|---|---|---|", *rows])


def describe(schema: dict[str, Any], values: list[Value]) -> None:
    """Give each property of the schema the text that explains it in values.yaml, if there is one."""
    for value in values:
        place = schema
        for part in value.key.split("."):
            place = place.get("properties", {}).get(part, {})
        if place and value.help:
            place["description"] = value.help


def files(chart: Path = CHART) -> dict[str, str]:
    """Every file that is written, whole or in part, by its path in the chart."""
    assets = shipped()
    schema = json.loads((chart / SCHEMA).read_text())
    describe(schema, values(chart))
    schema["properties"]["server"]["properties"] = settings_schema()
    readme = (chart / README).read_text()
    before, rest = readme.split(_BEGIN)
    after = rest.split(_END)[1]
    return {
        "files/rules.yaml": assets["rules.yaml"],
        "files/dashboard.json": assets["dashboard.json"],
        SCHEMA: json.dumps(schema, indent=2) + "\n",
        README: f"{before}{_BEGIN}\n\n{table(chart)}\n\n{_END}{after}",
    }


if __name__ == "__main__":
    for name, text in files().items():
        (CHART / name).write_text(text)
