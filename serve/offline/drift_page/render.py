"""HTML page of a drift report: one file without scripts or requests, figures as SVG. All inserted text is escaped."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from embedship.charts import page
from embedship.charts.table import ChartTable, ColumnKind, TableColumn, TableRow, facts, text
from embedship.monitor.drift.offline import LoggedQueries
from embedship.monitor.drift.reference import DriftReference
from embedship.monitor.state import SignalState
from embedship.serve.offline.drift_page import figures
from embedship.serve.offline.drift_report import DriftCommandReport, blocks_missing, tests, when

_FOLDER = Path(__file__).parent
_NAMES = {SignalState.OK: "no drift", SignalState.WARN: "drift", SignalState.UNKNOWN: "unknown"}


class DriftTile(NamedTuple):
    title: str
    value: str
    note: str


def html(report: DriftCommandReport, reference: DriftReference, current: LoggedQueries) -> str:
    """Return the page of a report. The figures show the vectors of the reference and of the log."""
    comparison = report.comparison
    decided = comparison.report.state is not SignalState.UNKNOWN
    return page.template(_FOLDER / "drift.html.j2").render(
        found=report,
        tiles=_tiles(report),
        projection=figures.projection(reference.vectors, current.vectors) if decided else None,
        distances=figures.distances(comparison) if decided else None,
        pvalues=figures.pvalues(comparison) if decided else None,
        blocks=figures.blocks(comparison),
        blocks_missing=blocks_missing(comparison),
        recall=figures.recall(report.recall, timed=current.times is not None) if report.recall else None,
        tests=_tests(report) if decided else None,
        dimensions=_dimensions(report),
        topics=_topics(report),
        queries=_queries(report),
        facts=_facts(report, reference),
    )


def _tiles(found: DriftCommandReport) -> list[DriftTile]:
    report, far = found.comparison.report, found.comparison.evidence.far
    return [
        DriftTile("queries", _NAMES[found.comparison.state], f"by the {report.rule.replace('_', ' ')} rule"),
        DriftTile("effect", f"{report.effect:.3f}", f"standard deviations; limit {report.effect_floor:g}"),
        DriftTile(
            "queries tested", f"{report.distinct:,}", f"of {report.samples:,}; {report.effective:,.0f} independent"
        ),
        DriftTile(
            "outside all known topics",
            f"{far.now:.1%}" if far else "unknown",
            f"without drift {far.then:.1%}" if far else "not tested",
        ),
    ]


def _tests(report: DriftCommandReport) -> ChartTable:
    results = {True: "above", False: "within", None: ""}
    rows = [
        TableRow((each.test, each.found, each.limit, results[each.fired]), bool(each.fired))
        for each in tests(report.comparison)
    ]
    return ChartTable("", (text("test"), TableColumn("value"), TableColumn("limit"), text("result")), rows)


def _dimensions(report: DriftCommandReport) -> ChartTable:
    columns = (
        TableColumn("dimension"),
        TableColumn("KS distance"),
        TableColumn("shift of the mean, standard deviations"),
    )
    rows = [
        TableRow((str(each.dimension), f"{each.statistic:.3f}", f"{each.shift:+.2f}"))
        for each in report.comparison.evidence.dimensions
    ]
    return ChartTable("", columns, rows)


def _topics(report: DriftCommandReport) -> ChartTable:
    evidence = report.comparison.evidence
    topics = [("gained", each) for each in evidence.gained] + [("lost", each) for each in evidence.lost]
    rows = [TableRow((change, str(each.cluster), f"{each.then:.1%}", f"{each.now:.1%}")) for change, each in topics]
    return ChartTable("", (text(""), TableColumn("topic"), TableColumn("reference"), TableColumn("log")), rows)


def _queries(report: DriftCommandReport) -> ChartTable:
    rows = [TableRow((f"{each.distance:.3f}", each.id, each.text or "")) for each in report.comparison.evidence.queries]
    return ChartTable("", (TableColumn("distance"), text("id"), TableColumn("text", ColumnKind.CODE)), rows)


def _facts(report: DriftCommandReport, reference: DriftReference) -> ChartTable:
    report = report.comparison.report
    pairs = [
        ("reference", report.reference),
        ("vectors of the reference", f"{report.reference:,}"),
        ("reference created", reference.created or "unknown"),
        ("log", report.current),
        ("variant that encoded the log", report.variant or "unknown"),
        ("model", f"{report.fingerprint} ({'checked' if report.bound else 'not named in the log'})"),
        ("false alarms accepted", f"{report.false_alarms}, tested every {report.every_seconds:,.0f} s"),
        ("accepted false alarms in 30 days", f"{report.promised_per_day * 30:.2f}"),
        (
            "false alarms in 30 days, measured on held-out blocks",
            f"{report.measured_per_day * 30:.2f}; 95% interval {report.measured_lower_per_day * 30:.2f} to "
            f"{report.measured_upper_per_day * 30:.2f}",
        ),
        (
            "drift began",
            when(report.comparison.since) if report.comparison.since else "no single time block shows drift",
        ),
    ]
    return facts(pairs, "what", "value")
