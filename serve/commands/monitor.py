"""Command `monitor`: monitoring tasks that need no running server."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from embedship import terminal
from embedship.errors import UsageError
from embedship.monitor import assets
from embedship.monitor.assets.options import CASES, THRESHOLDS, AssetOptions, customised
from embedship.monitor.errors import InvalidSetting
from embedship.serve.commands.monitor_export import export

monitor = typer.Typer(
    no_args_is_help=True, help="Write alert rules, dashboards and runbooks; export data for re-training."
)
monitor.command()(export)


@monitor.callback()
def _monitor() -> None:
    """Write alert rules, dashboards and runbooks, and export data for re-training. No running server is needed."""


class AssetsReport(msgspec.Struct, frozen=True):
    """Output of `embedship monitor init --json`."""

    folder: str
    files: list[str]


@monitor.command()
def init(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to create. It must not exist yet.")],
    runbooks: Annotated[
        str,
        typer.Option(
            "--runbooks",
            metavar="URL",
            help="Address where you publish the runbooks, such as a wiki page. Every alert links to it.",
        ),
    ] = assets.RUNBOOKS,
    page: Annotated[
        str, typer.Option("--page", help="Value of `severity` for alerts that need a reaction now.")
    ] = "page",
    warn: Annotated[
        str, typer.Option("--warn", help="Value of `severity` for alerts that need a reaction today.")
    ] = "warn",
    label: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="Label to add to every alert.")] = None,
    disable: Annotated[list[str] | None, typer.Option(metavar="ALERT", help="Alert to leave out.")] = None,
    threshold: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=NUMBER",
            help=f"Threshold to change: one of {', '.join(THRESHOLDS)}. The promtool tests are then not written.",
        ),
    ] = None,
    job: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAMESPACE/]JOB", help="Job that must exist. The alert EmbedshipAbsent fires if it is missing."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON on stdout.")] = False,
) -> None:
    """Write Prometheus rules with their promtool tests, a Grafana dashboard, and one runbook per alert."""
    options = AssetOptions(
        severities={name: value for name, value in (("page", page), ("warn", warn)) if name != value},
        labels=_parse_pairs("label", label),
        thresholds={name: _parse_number(name, value) for name, value in _parse_pairs("threshold", threshold).items()},
        disabled=tuple(disable or ()),
        jobs=tuple(job or ()),
    )
    try:
        texts = customised(_with_runbook_url(assets.shipped(), runbooks.rstrip("/")), options)
    except InvalidSetting as error:
        raise UsageError(f"--{error}") from None
    _write_folder(texts, out)
    if as_json:
        print(msgspec.json.encode(AssetsReport(str(out), list(texts))).decode())
    else:
        _print_next_steps(out, texts)


def _parse_pairs(option: str, values: list[str] | None) -> dict[str, str]:
    for value in values or ():
        if "=" not in value:
            raise UsageError(f"--{option} {value!r}: write it as NAME=VALUE")
    return dict(value.split("=", 1) for value in values or ())


def _parse_number(name: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise UsageError(f"--threshold {name}={value}: the value is not a number") from None


def _with_runbook_url(texts: dict[str, str], url: str) -> dict[str, str]:
    """Replace the runbook URL in the rules and in their tests, which must agree."""
    before, after = f"runbook_url: {assets.RUNBOOKS}/", f"runbook_url: {url}/"
    return {name: text.replace(before, after) if name.endswith(".yaml") else text for name, text in texts.items()}


def _write_folder(texts: dict[str, str], out: Path) -> None:
    """Write all files or none: they are written to a temporary folder next to `out`, which is then renamed."""
    if out.exists():
        raise UsageError(
            f"{out} exists: give another --out, or remove it first (changes that you made in it would be lost)"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
        folder = Path(temporary) / "assets"
        for name, text in texts.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        folder.rename(out)


def _print_next_steps(out: Path, texts: dict[str, str]) -> None:
    console = terminal.messages()
    runbooks = sum(name.startswith("runbooks/Embedship") for name in texts)
    console.print(f"{out}/rules.yaml        for Prometheus: rule_files, or a PrometheusRule")
    if CASES in texts:
        console.print(f"{out}/rules.test.yaml   promtool test rules {out}/rules.test.yaml")
    console.print(f"{out}/dashboard.json    for Grafana: import it, or create a ConfigMap labelled grafana_dashboard")
    console.print(f"{out}/runbooks/         {runbooks} runbooks, one per alert")
