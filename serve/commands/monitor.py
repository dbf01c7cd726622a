"""`embedship monitor`: what belongs to monitoring and needs no running server."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from embedship.errors import UsageError
from embedship.monitor import assets
from embedship.monitor.assets.options import CASES, THRESHOLDS, AssetOptions, customised
from embedship.monitor.errors import InvalidSetting
from embedship.serve.commands.monitor_export import export

monitor = typer.Typer(no_args_is_help=True, help="Rules, dashboards, runbooks, and what a re-training needs.")
monitor.command()(export)


@monitor.callback()
def _monitor() -> None:
    """What belongs to monitoring and needs no running server."""


class AssetsReport(msgspec.Struct, frozen=True):
    """What `embedship monitor init --json` prints."""

    folder: str
    files: list[str]


@monitor.command()
def init(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write into; it must not exist yet.")],
    runbooks: Annotated[
        str,
        typer.Option(
            "--runbooks",
            metavar="URL",
            help="Where the runbooks will be read, e.g. a page of your wiki: every alert then links there.",
        ),
    ] = assets.RUNBOOKS,
    page: Annotated[str, typer.Option("--page", help="Severity of what must be looked at now.")] = "page",
    warn: Annotated[str, typer.Option("--warn", help="Severity of what must be looked at today.")] = "warn",
    label: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="Label of every alert.")] = None,
    disable: Annotated[list[str] | None, typer.Option(metavar="ALERT", help="Alert to leave out.")] = None,
    threshold: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=NUMBER", help=f"One of {', '.join(THRESHOLDS)}. Leaves out the promtool tests."),
    ] = None,
    job: Annotated[
        list[str] | None,
        typer.Option(metavar="[NAMESPACE/]JOB", help="Job that must be there: EmbedshipAbsent says when it is gone."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON on stdout.")] = False,
) -> None:
    """Write Prometheus rules with their promtool tests, a Grafana dashboard, and a runbook for every alert."""
    options = AssetOptions(
        severities={name: value for name, value in (("page", page), ("warn", warn)) if name != value},
        labels=_pairs("label", label),
        thresholds={name: _number(name, value) for name, value in _pairs("threshold", threshold).items()},
        disabled=tuple(disable or ()),
        jobs=tuple(job or ()),
    )
    try:
        texts = customised(_linked(assets.shipped(), runbooks.rstrip("/")), options)
    except InvalidSetting as error:
        raise UsageError(f"--{error}") from None
    _write(texts, out)
    if as_json:
        print(msgspec.json.encode(AssetsReport(str(out), list(texts))).decode())
    else:
        _tell(out, texts)


def _pairs(option: str, given: list[str] | None) -> dict[str, str]:
    for each in given or ():
        if "=" not in each:
            raise UsageError(f"--{option} {each!r} is not NAME=VALUE")
    return dict(each.split("=", 1) for each in given or ())


def _number(name: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise UsageError(f"--threshold {name}={value}: the value is not a number") from None


def _linked(texts: dict[str, str], url: str) -> dict[str, str]:
    """The rules and their tests name the runbooks' place, the same in both."""
    before, after = f"runbook_url: {assets.RUNBOOKS}/", f"runbook_url: {url}/"
    return {name: text.replace(before, after) if name.endswith(".yaml") else text for name, text in texts.items()}


def _write(texts: dict[str, str], out: Path) -> None:
    """All of it or nothing: the folder is made beside its place, and renamed."""
    if out.exists():
        raise UsageError(f"{out} exists: give another --out, or remove it first; what you changed there would be lost")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as work:
        folder = Path(work) / "assets"
        for name, text in texts.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        folder.rename(out)


def _tell(out: Path, texts: dict[str, str]) -> None:
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    books = sum(name.startswith("runbooks/Embedship") for name in texts)
    console.print(f"{out}/rules.yaml        for Prometheus: rule_files, or a PrometheusRule")
    if CASES in texts:
        console.print(f"{out}/rules.test.yaml   promtool test rules {out}/rules.test.yaml")
    console.print(f"{out}/dashboard.json    for Grafana: import it, or a ConfigMap labelled grafana_dashboard")
    console.print(f"{out}/runbooks/         {books} runbooks, one an alert")
