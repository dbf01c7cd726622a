"""Reference pages that come from the code: command line, HTTP, Python, alerts, file formats.

tools/docs.py writes them into docs/. Each function returns the whole text of one page.
"""

from __future__ import annotations

import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import msgspec
import typer
import yaml

from embedship.commands import main
from embedship.commands.guide import GUIDES, next_steps
from embedship.monitor import assets
from embedship.serve.http import openapi
from embedship.serve.http.messages import Route
from embedship.serve.http.routes import _FAMILIES, admin, dashboard, health
from embedship.serve.settings import Settings

COLUMNS = 100
WRITTEN = "<!-- written by tools/docs.py: change the code, then run `python -P tools/docs.py` -->"


def _page(title: str, intro: str, sections: Iterator[str]) -> str:
    return _wrapped("\n\n".join([f"# {title}", WRITTEN, intro.strip(), *sections])) + "\n"


def _wrapped(page: str) -> str:
    """Wrap paragraphs and list items at 100 columns. Code blocks and tables stay as they are."""
    lines, fenced = [], False
    for line in page.split("\n"):
        fenced ^= line.startswith("```")
        item = re.match(r"(?:\d+\.|-) ", line)
        if fenced or len(line) <= COLUMNS or line.startswith(("|", "    ", "#")):
            lines.append(line)
        else:
            indent = " " * len(item[0]) if item else ""
            lines += textwrap.wrap(
                line, COLUMNS, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
            )
    return "\n".join(lines)


def _table(*rows: tuple[str, ...]) -> str:
    heading, *others = [f"| {' | '.join(_cell(each) for each in row)} |" for row in rows]
    return "\n".join([heading, "|" + "---|" * len(rows[0]), *others])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|") or "-"


# --- command line -----------------------------------------------------------------------------------------------------

_CLI = """
All commands and their options. `embedship COMMAND -h` prints the same. Every command also accepts
`--help` (`-h`), `--quiet` (`-q`: only errors, warnings and the result) and `--verbose` (`-v`: also
the log of libraries and the traceback of an error). Results are printed on stdout; progress,
warnings and the next step on stderr. `--json` prints one line of JSON instead, for errors as well.

`embedship --install-completion` installs completion for bash, zsh, fish or PowerShell. Exit codes:
0 ok, 1 failed, 2 wrong usage or input, 3 a measurement missed what was demanded, 4 a file was
changed, belongs elsewhere or is unsafe, 130 interrupted.
"""


def cli() -> str:
    """Return the page of all commands."""
    return _page("Command line", _CLI, (_command(name) for name in GUIDES))


def _command(name: str) -> str:
    words = [name] if name in main.COMMANDS else name.split()
    command: Any = typer.main.get_command(main._app(list(words)))
    for word in words:
        command = command.commands[word]
    shown = [each for each in command.params if each.name not in ("help", "quiet", "verbose")]
    arguments = " ".join(each.metavar or each.name.upper() for each in shown if each.param_type_name == "argument")
    parts = [f"## embedship {name}", _plain(command.help), f"    embedship {name} {arguments} [OPTIONS]"]
    panels: dict[str, list[tuple[str, ...]]] = {}
    for each in shown:
        panels.setdefault(each.rich_help_panel or "", []).append(_parameter(each))
    for panel, rows in panels.items():
        title = [f"**{panel}**"] if panel else []
        parts += [*title, _table(("option", "meaning", "default"), *rows)]
    parts += ["Examples:", "\n".join(f"    {each}" for each in GUIDES[name].examples)]
    if steps := next_steps(name, {}):
        parts += ["Next:", "\n".join(f"    {each}" for each in steps)]
    return "\n\n".join(parts)


def _parameter(parameter: Any) -> tuple[str, ...]:
    if parameter.param_type_name == "argument":
        names = f"`{parameter.metavar or parameter.name.upper()}`"
    else:
        names = ", ".join(f"`{each}`" for each in sorted(parameter.opts, key=len, reverse=True))
    default = parameter.default
    if parameter.required:
        default = "required"
    elif default is None or default is False or default == "" or callable(default):
        default = ""
    elif default is True:
        default = "on"
    return names, _plain(parameter.help or ""), str(getattr(default, "value", default))


def _plain(text: str) -> str:
    """Return a help text without the escapes that Rich needs, and with brackets that Markdown does not read as HTML."""
    return text.replace("\\[", "[").replace("<", "&lt;")


# --- HTTP -------------------------------------------------------------------------------------------------------------

_HTTP = """
All routes with every field, from the same source as `GET /openapi.json`. How to use them, with
examples: [HTTP API](api.md). Fields without a default are required. Errors have the format of the
client that the route belongs to.
"""


def document() -> dict[str, Any]:
    """Return the OpenAPI document of a server with every route. No model is needed to describe them."""
    service: Any = MagicMock(settings=Settings(bundle=Path("bundle")))
    service.bundle.manifest.created = "2026-01-01T00:00:00+00:00"
    routes: list[Route] = [route for family in _FAMILIES for route in family.routes(service)]
    routes += [*health.routes(service, service), *admin.routes(service), *dashboard.routes()]
    return openapi.document(routes, locked=False)


def http() -> str:
    """Return the page of all routes."""
    described = document()
    schemas = described["components"]["schemas"]
    sections = [
        _operation(path, method, operation, schemas)
        for path, item in described["paths"].items()
        if not path.startswith(dashboard.PATH + "/")
        for method, operation in item.items()
    ]
    shown = "".join(sections)
    parts = [
        f"### {name}\n\n{fields}"
        for name in schemas
        for _, fields in _objects(schemas[name], schemas)
        if f"({name})**" not in shown
    ]
    return _page("HTTP reference", _HTTP, iter([*sections, "## Parts of requests and responses", *parts]))


def _operation(path: str, method: str, operation: dict[str, Any], schemas: dict[str, Any]) -> str:
    parts = [f"## {method.upper()} {path}", f"{operation['summary']}."]
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    for title, schema in (("Request", body), ("Response", _answer(operation))):
        for name, fields in _objects(schema, schemas):
            parts += [f"**{title}{f' ({name})' if name else ''}**", fields]
    rows = [(f"`{status}`", each.get("description", "")) for status, each in operation["responses"].items()]
    return "\n\n".join([*parts, _table(("status", "meaning"), *rows)])


def _answer(operation: dict[str, Any]) -> Any:
    content = operation["responses"].get("200", {}).get("content", {})
    return content.get("application/json", {}).get("schema")


def _objects(schema: Any, schemas: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the name and the table of fields of each object that a schema allows."""
    if not schema:
        return
    for each in schema.get("anyOf", [schema]):
        name = each.get("$ref", "").rpartition("/")[2]
        found = schemas.get(name, each)
        if fields := found.get("properties"):
            required = found.get("required", [])
            rows = [
                (f"`{key}`", _type(value), _field_text(value), "required" if key in required else _default(value))
                for key, value in fields.items()
            ]
            yield name, _table(("field", "type", "meaning", "default"), *rows)


def _field_text(value: dict[str, Any]) -> str:
    return str(value.get("description", ""))


def _default(value: dict[str, Any]) -> str:
    return f"`{msgspec.json.encode(value['default']).decode()}`" if "default" in value else ""


def _type(value: dict[str, Any]) -> str:
    if "$ref" in value:
        return str(value["$ref"].rpartition("/")[2])
    if "anyOf" in value:
        return " or ".join(dict.fromkeys(_type(each) for each in value["anyOf"]))
    if "enum" in value:
        return ", ".join(f"`{each}`" for each in value["enum"])
    if value.get("type") == "array":
        return f"list of {_type(value.get('items') or {})}"
    return str(value.get("type", "any"))


# --- Python -----------------------------------------------------------------------------------------------------------

_PYTHON = """
The names that `import embedship` offers. Other modules are internal and may change in any version.
"""


def python() -> str:
    """Return the page of the public Python names."""
    package = importlib.import_module("embedship")
    return _page("Python API", _PYTHON, (_class(name, getattr(package, name)) for name in package.__all__))


def _class(name: str, kind: Any) -> str:
    parts = [f"## {name}", _docstring(kind)]
    for member, value in vars(kind).items():
        function = getattr(value, "__func__", value.fget if isinstance(value, property) else value)
        if member.startswith("_") or not inspect.isfunction(function) or not function.__doc__:
            continue
        shown = f"{name}.{member}" if isinstance(value, property) else f"{name}.{member}{_signature(function)}"
        parts += [f"### {name}.{member}", f"```python\n{shown}\n```", _docstring(function)]
    return "\n\n".join(parts)


def _signature(function: Any) -> str:
    signature = inspect.signature(function)
    others = [each for each in signature.parameters.values() if each.name not in ("self", "cls")]
    return str(signature.replace(parameters=others)).replace("'", "")


def _docstring(subject: Any) -> str:
    """Return a docstring as Markdown: examples become code blocks."""
    blocks = inspect.cleandoc(subject.__doc__ or "").split("\n\n")
    return "\n\n".join(f"```python\n{_example(each)}\n```" if each.startswith(">>>") else each for each in blocks)


def _example(block: str) -> str:
    return re.sub(r" *# doctest: .*", "", block)


# --- alerts -----------------------------------------------------------------------------------------------------------

_ALERTS = """
Every alert that `embedship monitor init` writes, with its runbook. How to install them:
[Alerts](alerts.md).
"""


def alerts() -> str:
    """Return the page of all alerts: a table, then the runbook of each."""
    texts = assets.shipped()
    rules = [rule for group in yaml.safe_load(texts["rules.yaml"])["groups"] for rule in group["rules"]]
    found = [rule for rule in rules if "alert" in rule]
    rows = [
        (
            f"[{rule['alert']}](#{rule['alert'].lower()})",
            rule["labels"]["severity"],
            rule.get("for", "0s"),
            _summary(rule["annotations"]["summary"]),
        )
        for rule in found
    ]
    table = _table(("alert", "severity", "for", "meaning"), *rows)
    runbooks = (re.sub(r"^#", "##", texts[rule["annotations"]["runbook_url"]], flags=re.MULTILINE) for rule in found)
    return _page("Alerts and runbooks", _ALERTS, iter([table, *(each.strip() for each in runbooks)]))


def _summary(template: str) -> str:
    """Return a summary with the names of labels, and X for the value."""
    return re.sub(r"{{\s*\$value.*?}}", "X", re.sub(r"{{\s*\$labels\.(\w+)\s*}}", r"\1", template))


# --- formats ----------------------------------------------------------------------------------------------------------

_FORMATS = """
The JSON manifests of bundles and indexes. Unknown keys are errors, so an older embedship rejects a
newer format instead of misreading it. Every file of a bundle and of an index is listed in its
manifest with size and SHA-256. `embedship verify BUNDLE` and every start of a server check them.

| artifact | manifest | other files |
|---|---|---|
| bundle | `bundle.json` | the variants, the tokenizer, the golden texts, `report.html`, `report.json` |
| index | `index.json` | documents, exact vectors, the first stage as a FAISS index, int8 codes |
"""
_ROOTS = (
    ("embedship.bundle.manifest", "BundleManifest", "bundle.json"),
    ("embedship.serve.index.manifest", "IndexManifest", "index.json"),
)


def formats() -> str:
    """Return the page of the manifests of bundles and indexes."""
    return _page("Bundle and index formats", _FORMATS, _records())


def _records() -> Iterator[str]:
    seen: set[Any] = set()
    for module, name, file in _ROOTS:
        queue = [(getattr(importlib.import_module(module), name), f"## {file}")]
        while queue:
            kind, heading = queue.pop(0)
            if kind in seen:
                continue
            seen.add(kind)
            yield f"{heading}\n\n{_docstring(kind)}\n\n{_fields(kind)}"
            for field in msgspec.structs.fields(kind):
                queue += [(each, f"### {each.__name__}") for each in _structs(field.type)]


def _structs(kind: Any) -> list[Any]:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return [kind]
    return [struct for each in getattr(kind, "__args__", ()) for struct in _structs(each)]


def _fields(kind: Any) -> str:
    comments = dict(re.findall(r"^    (\w+): [^#\n]*#\s*(.*)$", inspect.getsource(kind), re.MULTILINE))
    rows = [
        (
            f"`{each.encode_name}`",
            f"`{_type_name(each.type)}`",
            comments.get(each.name, ""),
            "yes" if each.required else "no",
        )
        for each in msgspec.structs.fields(kind)
    ]
    return _table(("key", "type", "meaning", "required"), *rows)


def _type_name(kind: Any) -> str:
    if isinstance(kind, type) and not getattr(kind, "__args__", ()):
        return kind.__name__
    return re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", str(kind))


PAGES = {
    "reference-cli.md": cli,
    "reference-http.md": http,
    "reference-python.md": python,
    "reference-alerts.md": alerts,
    "reference-formats.md": formats,
}
