"""HTML report of a build by goal: one file, without scripts and external requests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from embedship.charts import axis, page
from embedship.charts.axis import Axis
from embedship.charts.plot import Plot, PlotDot, ReferenceLine, place_x, place_y, scatter
from embedship.charts.table import ChartTable, TableColumn, TableRow, text
from embedship.serve.index.manifest import IndexChoice, MeasuredIndex, frontier

# Columns of the table of candidates: first the text columns, then the number columns.
WORDS = ("index", "effort")
NUMBERS = ("recall@10", "95%", "queries/s", "p99 ms", "bytes/vector", "build s")


def cells(each: MeasuredIndex) -> list[str]:
    """Return the cells of one candidate, in the order of WORDS and NUMBERS."""
    return [
        str(each.recipe),
        str(each.effort),
        f"{each.recall.mean:.4f}",
        f"{each.recall.low:.4f} to {each.recall.high:.4f}",
        f"{each.queries_per_second:,.0f}",
        f"{each.p99_seconds * 1e3:.2f}",
        f"{each.hot_bytes:,.1f}",
        f"{each.build_seconds:.1f}",
    ]


_HERE = Path(__file__).parent


def html(choice: IndexChoice, missed: str | None) -> str:
    """Return the page. `missed` is the message that says which goals are missed; None if all are met."""
    best = choice.measured[choice.chosen]
    return page.template(_HERE / "frontier.html.j2").render(
        choice=choice,
        best=best,
        missed=missed,
        speed=_plot("Recall and speed", choice, "queries per second (one thread)", lambda c: c.queries_per_second),
        memory=_plot("Recall and memory", choice, "hot bytes per vector", lambda c: c.hot_bytes),
        table=_table(choice),
    )


def _plot(name: str, choice: IndexChoice, title: str, value: Callable[[MeasuredIndex], float]) -> Plot:
    frontier_rows, candidates = frontier(choice), choice.measured
    x = axis.doublings(title, [value(each) for each in candidates])
    y = axis.even("recall@10", [*(each.recall.mean for each in candidates), choice.goals.recall])
    dots = [
        _dot(x, y, candidates[i], value, i == choice.chosen)
        for i in sorted(frontier_rows, key=lambda i: i != choice.chosen)
    ]
    names = [
        candidates[i].recipe.kind if i == choice.chosen else ""
        for i in sorted(frontier_rows, key=lambda i: i != choice.chosen)
    ]
    return scatter(name, x, y, dots, names, ReferenceLine(place_y(y, choice.goals.recall), "the goal"))


def _dot(x: Axis, y: Axis, each: MeasuredIndex, value: Callable[[MeasuredIndex], float], chosen: bool) -> PlotDot:
    low = place_y(y, max(each.recall.low, y.low))
    hover = f"{each.recipe}, effort {each.effort}: recall {each.recall.mean:.4f}"
    kind = "chosen" if chosen else "other"
    return PlotDot(place_x(x, value(each)), place_y(y, each.recall.mean), kind, hover, low)


def _table(choice: IndexChoice) -> ChartTable:
    columns = (*map(text, WORDS), *map(TableColumn, NUMBERS))
    frontier_rows: Sequence[int] = frontier(choice)
    return ChartTable("", columns, [TableRow(cells(choice.measured[i]), i == choice.chosen) for i in frontier_rows])
