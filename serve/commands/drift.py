"""Command `drift`: compares a log of queries with a drift reference. It is meant for pipelines and CronJobs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import typer
from rich.table import Table
from rich.text import Text

from embedship import terminal
from embedship.bundle import Bundle
from embedship.commands.options import JsonOption, with_options
from embedship.errors import UsageError
from embedship.files import atomic_file
from embedship.monitor.drift.detector import DriftRule
from embedship.monitor.drift.offline import DriftComparison, compare
from embedship.monitor.drift.reference import DriftReference
from embedship.monitor.errors import InvalidSetting, InvalidVectors
from embedship.monitor.recall.history import RecallHistory, recall_history
from embedship.monitor.state import SignalState
from embedship.serve.commands.options import parse_false_alarms, parse_interval
from embedship.serve.offline import references
from embedship.serve.offline.drift_report import DriftCommandReport, DriftRequest, tests
from embedship.serve.offline.query_log import DriftLog, read_npz, read_texts

EXIT_CODES = {SignalState.OK: 0, SignalState.UNKNOWN: 1, SignalState.WARN: 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftCommandOptions:
    """Arguments and options of `embedship drift`."""

    reference: Annotated[
        Path, typer.Argument(metavar="REFERENCE", help="Drift reference written by `embedship reference`.")
    ]
    current: Annotated[
        Path,
        typer.Argument(
            metavar="CURRENT",
            help='Log of queries. JSON Lines with {"text"} and optionally "session", "timestamp", "recall"; or .npz '
            "with `vectors` and optionally `sessions`, `times`, `recall`, `fingerprint`, `variant`.",
        ),
    ]
    bundle: Annotated[
        Path | None, typer.Option("--bundle", help="Bundle that encodes the texts. Required for JSON Lines.")
    ] = None
    variant: Annotated[
        str | None, typer.Option("--variant", help="Variant to encode with (default: the chosen variant).")
    ] = None
    rule: Annotated[DriftRule, typer.Option("--rule", help="Test that decides. All tests are computed.")] = (
        DriftRule.CALIBRATED
    )
    false_alarms: Annotated[
        str | None,
        typer.Option("--false-alarms", help="Accepted rate of false alarms (default: the rate of the reference)."),
    ] = None
    every: Annotated[str, typer.Option("--every", help='Interval at which you run this command: "1h", "1 day".')] = (
        "1 day"
    )
    recall_baseline: Annotated[
        float | None,
        typer.Option(
            "--recall-baseline", min=0.01, max=1, help="Expected recall (default: recall of the first 500 queries)."
        ),
    ] = None
    texts: Annotated[
        int,
        typer.Option(
            "--texts", min=0, max=1_000, help="Number of queries furthest from the reference whose texts are shown."
        ),
    ] = 0
    report: Annotated[
        Path | None,
        typer.Option("--report", metavar="FILE.html", help="Write a page with figures. Replaces the file."),
    ] = None
    as_json: JsonOption = False


@with_options(DriftCommandOptions)
def drift(options: DriftCommandOptions) -> None:
    """Compare a log of queries with the reference, and report whether, how and since when the queries have drifted.

    Exits 0 without drift, 3 if the queries have drifted or recall has fallen, 1 if drift could not be decided, and 4 if
    the log or bundle belongs to another model than the reference.
    """
    false_alarms = None if options.false_alarms is None else parse_false_alarms(options.false_alarms)
    interval_seconds = parse_interval(options.every)
    if options.report:
        atomic_file.check_writable(options.report, force=True)
    reference = references.read(options.reference).calibrated()
    log = _read_log(options, reference)
    try:
        comparison = compare(
            reference,
            log.current,
            variant=log.variant,
            rule=options.rule,
            false_alarms=false_alarms,
            interval_seconds=interval_seconds,
            named=options.texts,
        )
    except (InvalidVectors, InvalidSetting) as error:
        raise UsageError(f"{options.current}: {error}") from None
    request = DriftRequest(options.reference, options.current, false_alarms, interval_seconds, options.recall_baseline)
    recall = _recall_history(log, options.recall_baseline)
    report = DriftCommandReport.from_comparison(comparison, recall, reference, log, request)
    if options.report:
        _write_page(options.report, report, reference, log)
    if not log.bound:
        _warn(f"{options.current} does not say which model encoded it: add `fingerprint`")
    if options.as_json:
        typer.echo(msgspec.json.encode(report).decode())
    else:
        _print(report)
    raise typer.Exit(EXIT_CODES[report.state])


def _read_log(options: DriftCommandOptions, reference: DriftReference) -> DriftLog:
    path = options.current
    if path.suffix == ".npz":
        return read_npz(path, reference)
    if options.bundle is None:
        raise UsageError(
            f"{path} contains texts: give --bundle BUNDLE to encode them, or give their vectors as an .npz file"
        )
    return read_texts(path, Bundle.open(options.bundle), options.variant, reference)


def _recall_history(log: DriftLog, baseline: float | None) -> RecallHistory | None:
    if log.recalls is None:
        return None
    times = log.current.times
    return recall_history(
        log.recalls, np.arange(len(log.recalls), dtype=np.float64) if times is None else times, baseline
    )


def _write_page(path: Path, report: DriftCommandReport, reference: DriftReference, log: DriftLog) -> None:
    from embedship.serve.offline.drift_page.render import html

    page = html(report, reference, log.current)
    # With --texts the page contains texts of users: only the owner may read it.
    atomic_file.write(path, page.encode(), private=any(each.text for each in report.comparison.evidence.queries))


def _warn(sentence: str) -> None:
    terminal.warn(sentence)


def _print(report: DriftCommandReport) -> None:
    console = terminal.output()
    for sentence in report.verdict:
        console.print(sentence)
    if report.comparison.report.state is not SignalState.UNKNOWN:
        console.print(_table(report.comparison))
    for each in report.comparison.evidence.queries:
        if each.text:
            console.print(f"{each.distance:.2f}  {each.text}")


def _table(comparison: DriftComparison) -> Table:
    table = Table()
    for heading in ("test", "value", "limit", "result"):
        table.add_column(heading, justify="right" if heading in ("value", "limit") else "left")
    results: dict[bool | None, str | Text] = {True: Text("above", style="red"), False: "within", None: ""}
    for line in tests(comparison):
        table.add_row(line.test, line.found, line.limit, results[line.fired])
    return table
