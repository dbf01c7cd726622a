"""The verb `drift`: a log of queries against a reference, for pipelines and CronJobs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from embedship.bundle import Bundle
from embedship.errors import UsageError
from embedship.files import atomic_file
from embedship.monitor.drift.detector import DriftRule
from embedship.monitor.drift.offline import DriftComparison, compare
from embedship.monitor.drift.reference import DriftReference
from embedship.monitor.errors import InvalidSetting, InvalidVectors
from embedship.monitor.recall.history import RecallHistory, course
from embedship.monitor.state import SignalState
from embedship.serve.commands.options import parse_false_alarms, parse_interval
from embedship.serve.offline import references
from embedship.serve.offline.drift_report import DriftCommandReport, DriftRequest, tests
from embedship.serve.offline.query_log import DriftLog, read_npz, read_texts

EXITS = {SignalState.OK: 0, SignalState.UNKNOWN: 1, SignalState.WARN: 3}


def drift(
    reference: Annotated[Path, typer.Argument(metavar="REFERENCE", help="Written by `embedship reference`.")],
    current: Annotated[
        Path,
        typer.Argument(
            metavar="CURRENT",
            help='The log. JSON Lines {"text"}, optionally "session", "timestamp", "recall"; or .npz with `vectors`, '
            "optionally `sessions`, `times`, `recall`, `fingerprint`, `variant`.",
        ),
    ],
    bundle: Annotated[
        Path | None, typer.Option("--bundle", help="The bundle that encodes the texts; needed for JSON Lines.")
    ] = None,
    variant: Annotated[
        str | None,
        typer.Option("--variant", help="Encode with this one (default: the chosen)."),
    ] = None,
    rule: Annotated[DriftRule, typer.Option("--rule", help="Which test decides; all are made.")] = DriftRule.CALIBRATED,
    false_alarms: Annotated[
        str | None, typer.Option("--false-alarms", help="How many you accept (default: as the reference was fitted).")
    ] = None,
    every: Annotated[str, typer.Option("--every", help='How often you run this: "1h", "1 day".')] = "1 day",
    recall_baseline: Annotated[
        float | None,
        typer.Option("--recall-baseline", min=0.01, max=1, help="Recall as it should be (default: of the first 500)."),
    ] = None,
    texts: Annotated[
        int, typer.Option("--texts", min=0, max=1_000, help="Show the texts of so many queries that lie furthest.")
    ] = 0,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE.html", help="Write a page with figures; replaces the file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Compare a log of queries with the reference: have they drifted, how, and since when?

    Exits 0: no drift; 3: drift, or a fall of recall; 1: it could not be decided; 4: of another model.
    """
    spent, seconds = None if false_alarms is None else parse_false_alarms(false_alarms), parse_interval(every)
    if report:
        atomic_file.check_writable(report, force=True)
    then = references.read(reference).calibrated()
    log = _log(current, bundle, variant, then)
    try:
        comparison = compare(
            then,
            log.current,
            variant=log.variant,
            rule=rule,
            false_alarms=spent,
            interval_seconds=seconds,
            named=texts,
        )
    except (InvalidVectors, InvalidSetting) as error:
        raise UsageError(f"{current}: {error}") from None
    asked = DriftRequest(reference, current, spent, seconds, recall_baseline)
    found = DriftCommandReport.of(comparison, _course(log, recall_baseline), then, log, asked)
    if report:
        _write(report, found, then, log)
    if not log.bound:
        _warn(f"{current} does not name the model that encoded it: add `fingerprint`")
    if as_json:
        typer.echo(msgspec.json.encode(found).decode())
    else:
        _tell(found)
    raise typer.Exit(EXITS[found.state])


def _log(path: Path, bundle: Path | None, variant: str | None, reference: DriftReference) -> DriftLog:
    if path.suffix == ".npz":
        return read_npz(path, reference)
    if bundle is None:
        raise UsageError(f"{path} holds texts: give --bundle BUNDLE to encode them, or their vectors as .npz")
    return read_texts(path, Bundle.open(bundle), variant, reference)


def _course(log: DriftLog, baseline: float | None) -> RecallHistory | None:
    if log.recalls is None:
        return None
    times = log.current.times
    return course(log.recalls, np.arange(len(log.recalls), dtype=np.float64) if times is None else times, baseline)


def _write(path: Path, found: DriftCommandReport, reference: DriftReference, log: DriftLog) -> None:
    from embedship.serve.offline.drift_page.render import html

    page = html(found, reference, log.current)
    # With the texts of users, if they were asked for.
    atomic_file.write(path, page.encode(), private=any(each.text for each in found.comparison.evidence.queries))


def _warn(sentence: str) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print("[yellow]warning:[/]", sentence)


def _tell(found: DriftCommandReport) -> None:
    console = Console(highlight=False)
    for sentence in found.verdict:
        console.print(sentence, markup=False)
    if found.comparison.report.state is not SignalState.UNKNOWN:
        console.print(_table(found.comparison))
    for each in found.comparison.evidence.queries:
        if each.text:
            console.print(f"{each.distance:.2f}  {each.text}", markup=False)


def _table(comparison: DriftComparison) -> Table:
    table = Table()
    for heading in ("test", "found", "limit", ""):
        table.add_column(heading, justify="right" if heading in ("found", "limit") else "left")
    says = {True: "[red]above[/]", False: "within", None: ""}
    for line in tests(comparison):
        table.add_row(line.test, line.found, line.limit, says[line.fired])
    return table
