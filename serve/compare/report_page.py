"""compare.html: one file, no script, no request; every word from outside escaped."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from embedship.charts import axis, page
from embedship.charts.plot import Plot, PlotLine, ReferenceLine, place_x, place_y, scatter
from embedship.charts.table import ChartTable, ColumnKind, TableColumn, TableRow, text
from embedship.serve.compare.rankings import Floats
from embedship.serve.compare.report import ComparedSide, CompareReport, ComparisonResult

_HERE = Path(__file__).parent
_FACTS = ("source", "model", "fingerprint", "variant, as it ran", "dimensions", "files", "most memory")
_SAYS = {True: "passed", False: "failed", None: "shown"}


def html(found: ComparisonResult) -> str:
    cosines, shares = found.evidence
    return page.template(_HERE / "compare.html.j2").render(
        found=found.report,
        gates=_gates(found.report),
        sides=_sides(found.report),
        cosines=None if cosines is None else _sorted("Cosine of NEW's vectors to OLD's", "cosine", cosines),
        shares=None if shares is None else _sorted("recall@10 of NEW against OLD", "recall@10", shares),
    )


def _gates(report: CompareReport) -> ChartTable:
    rows = [TableRow((each.name, _SAYS[each.passed], each.reason), each.passed is False) for each in report.gates]
    return ChartTable("", (text("gate"), text(""), text("what was found")), rows)


def _sides(report: CompareReport) -> ChartTable:
    rows = [
        TableRow((name, *cells)) for name, *cells in zip(_FACTS, _facts(report.old), _facts(report.new), strict=True)
    ]
    columns = (text(""), TableColumn("OLD", ColumnKind.CODE), TableColumn("NEW", ColumnKind.CODE))
    return ChartTable("", columns, rows)


def _facts(side: ComparedSide) -> tuple[str, ...]:
    made = side.source, side.model, side.fingerprint, f"{side.variant}, {side.precision}", f"{side.dimension:,}"
    return (*made, _megabytes(side.bytes), _megabytes(side.memory_bytes))


def _megabytes(bytes: int | None) -> str:
    return "not measured" if bytes is None else f"{bytes / 1e6:,.0f} MB"


def _sorted(name: str, what: str, values: Floats) -> Plot | None:
    """Every query's value, lowest first, and their mean; None where there is none to show."""
    found = np.sort(values[np.isfinite(values)])
    if not len(found):
        return None
    x = axis.even("queries, lowest first", [0, len(found)], from_zero=True)
    y = axis.even(what, [*found, 1.0])
    line = [(place_x(x, place), place_y(y, float(value))) for place, value in enumerate(found, 1)]
    across = ReferenceLine(place_y(y, float(found.mean())), f"mean {found.mean():.4f}")
    return scatter(name, x, y, across=across, lines=[PlotLine("now", line)])
