"""HTML page of a comparison: one file without scripts or requests. All inserted text is escaped."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from embedship.charts import axis, page
from embedship.charts.plot import Plot, PlotLine, ReferenceLine, place_x, place_y, scatter
from embedship.charts.table import ChartTable, ColumnKind, TableColumn, TableRow, text
from embedship.serve.compare.rankings import Floats
from embedship.serve.compare.report import ComparedSide, CompareReport, ComparisonResult

_FOLDER = Path(__file__).parent
_FACTS = ("source", "model", "fingerprint", "variant and precision", "dimensions", "size of files", "peak memory")
_RESULTS = {True: "passed", False: "failed", None: "reported"}


def html(result: ComparisonResult) -> str:
    cosines, shares = result.per_query
    return page.template(_FOLDER / "compare.html.j2").render(
        report=result.report,
        gates=_gates(result.report),
        sides=_sides(result.report),
        cosines=None if cosines is None else _sorted_values("Cosine of NEW's vectors to OLD's", "cosine", cosines),
        shares=None if shares is None else _sorted_values("recall@10 of NEW against OLD", "recall@10", shares),
    )


def _gates(report: CompareReport) -> ChartTable:
    rows = [TableRow((each.name, _RESULTS[each.passed], each.reason), each.passed is False) for each in report.gates]
    return ChartTable("", (text("gate"), text("result"), text("measured")), rows)


def _sides(report: CompareReport) -> ChartTable:
    rows = [
        TableRow((name, *cells)) for name, *cells in zip(_FACTS, _facts(report.old), _facts(report.new), strict=True)
    ]
    columns = (text(""), TableColumn("OLD", ColumnKind.CODE), TableColumn("NEW", ColumnKind.CODE))
    return ChartTable("", columns, rows)


def _facts(side: ComparedSide) -> tuple[str, ...]:
    texts = side.source, side.model, side.fingerprint, f"{side.variant}, {side.precision}", f"{side.dimension:,}"
    return (*texts, _megabytes(side.bytes), _megabytes(side.memory_bytes))


def _megabytes(bytes: int | None) -> str:
    return "not measured" if bytes is None else f"{bytes / 1e6:,.0f} MB"


def _sorted_values(name: str, quantity: str, values: Floats) -> Plot | None:
    """Plot the value of every query in ascending order, and their mean; None if there are no finite values."""
    ascending = np.sort(values[np.isfinite(values)])
    if not len(ascending):
        return None
    x = axis.even("queries, lowest first", [0, len(ascending)], from_zero=True)
    y = axis.even(quantity, [*ascending, 1.0])
    line = [(place_x(x, i), place_y(y, float(value))) for i, value in enumerate(ascending, 1)]
    mean = float(ascending.mean())
    across = ReferenceLine(place_y(y, mean), f"mean {mean:.4f}")
    return scatter(name, x, y, across=across, lines=[PlotLine("now", line)])
