"""Writes the generated parts of the chart: settings schema, alert rules, dashboard and the README's table of values.

    python -P tools/chart.py

`make chart` runs it. The server's settings are defined only in serve/settings.py, and the chart's schema of `server` is
generated from them. A test fails if the generated parts are out of date.
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
from embedship.monitor.assets.options import THRESHOLDS
from embedship.serve.setting_fields import SettingRange
from embedship.serve.settings import Settings

CHART = Path(__file__).parents[1] / "helm" / "embedship"
SCHEMA = "values.schema.json"
README = "README.md"

# The chart sets these itself, from values that also define volumes, ports and probes.
_SERVING = ("bundle", "index", "reranker", "cache", "state_dir")
_KEYS = ("key", "api_key_file", "admin_key_file", "write_key_file")
OWNED = (*_SERVING, *_KEYS, "host", "port", "metrics_port", "metrics_host", "drain_seconds")

_JSON = {bool: "boolean", int: "integer", float: "number"}
_BEGIN, _END = "<!-- values: written by tools/chart.py -->", "<!-- end of values -->"


class Value(NamedTuple):
    key: str
    default: str
    help: str


def settings_schema() -> dict[str, Any]:
    """Return the JSON Schema properties of `server`: one per setting, with type, range and help."""
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
    # null means the server's default, so that one values file can reset a setting of another.
    schema: dict[str, Any] = {"type": [name, "null"], "description": help or ""}
    if isinstance(one, type) and issubclass(one, Enum):
        schema["enum"] = [*(member.value for member in one), None]
    if allowed:
        low, high = (int(x) if float(x).is_integer() else x for x in allowed)
        schema |= {"minimum": low, "maximum": high}
    return schema


def values(chart: Path = CHART) -> list[Value]:
    """Return every value with a `# --` comment and every leaf, in the order of values.yaml."""
    text = (chart / "values.yaml").read_text()
    return list(_values(text, yaml.safe_load(text)))


def _values(text: str, defaults: dict[str, Any]) -> Iterator[Value]:
    path: list[str] = []
    help = ""
    hidden: int | None = None  # depth of a value that is shown as a whole
    for line in text.splitlines():
        if comment := re.match(r"\s*# -- (.*)", line):
            help = comment[1]
        elif key := re.match(r"( *)([\w.-]+):", line):
            depth = len(key[1]) // 2
            path = [*path[:depth], key[2]]
            if hidden is not None and depth > hidden:
                continue
            value: Any = defaults
            for part in path:
                value = value[part]
            nested = isinstance(value, dict) and bool(value) and line.rstrip().endswith(":")
            hidden = None if nested else depth
            if help or not nested:
                yield Value(".".join(path), "" if nested else json.dumps(value), help)
            help = ""


def table(chart: Path = CHART) -> str:
    """Return the Markdown table of values."""
    rows = [f"| `{key}` | {f'`{default}`' if default else ''} | {help} |" for key, default, help in values(chart)]
    return "\n".join(["| value | default | meaning |", "|---|---|---|", *rows])


def describe(schema: dict[str, Any], values: list[Value]) -> None:
    """Copy the descriptions of `values` into the properties of `schema`, in place."""
    for value in values:
        node = schema
        for part in value.key.split("."):
            node = node.get("properties", {}).get(part, {})
        if node and value.help:
            node["description"] = value.help


def files(chart: Path = CHART) -> dict[str, str]:
    """Return the content of every file with generated parts, by its path in the chart."""
    assets = shipped()
    schema = json.loads((chart / SCHEMA).read_text())
    describe(schema, values(chart))
    schema["properties"]["server"]["properties"] = settings_schema()
    rules = schema["properties"]["metrics"]["properties"]["rules"]["properties"]
    rules["thresholds"]["properties"] = {
        name: {"type": "number", "exclusiveMinimum": 0, "description": f"{each.meaning}. Default: {each.default}."}
        for name, each in THRESHOLDS.items()
    }
    readme = (chart / README).read_text()
    before, rest = readme.split(_BEGIN)
    after = rest.split(_END)[1]
    return {
        "files/rules.yaml": assets["rules.yaml"],
        "files/dashboard.json": assets["dashboard.json"],
        "files/thresholds.json": json.dumps({n: each._asdict() for n, each in THRESHOLDS.items()}, indent=2) + "\n",
        SCHEMA: json.dumps(schema, indent=2) + "\n",
        README: f"{before}{_BEGIN}\n\n{table(chart)}\n\n{_END}{after}",
    }


if __name__ == "__main__":
    for name, text in files().items():
        (CHART / name).write_text(text)
