"""The panels as a Grafana dashboard. Only whoever writes the assets needs grafana-foundation-sdk."""

from __future__ import annotations

from typing import Any

from grafana_foundation_sdk.builders import common, prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.common import (
    BigValueTextMode,
    LegendDisplayMode,
    LegendPlacement,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from embedship.monitor.assets.panels import COLOURS, ROWS, DashboardPanel, PanelKind

_SOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
_HEIGHT = 8
_STATES = {"0": ("unknown", "gray"), "1": ("ok", "green"), "2": ("warn", "red")}


def dashboard() -> str:
    board = (
        build.Dashboard("embedship")
        .uid("embedship")
        .description("An embedding and search service, and how good its answers are.")
        .tags(["embedship"])
        .refresh("30s")
        .time("now-6h", "now")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .readonly()
    )
    for variable in _variables():
        board.with_variable(variable)
    for title, panels in ROWS.items():
        board.with_row(build.Row(title))
        for panel in panels:
            board.with_panel(_panel(panel))
    return JSONEncoder(sort_keys=True, indent=2).encode(board.build()) + "\n"


def _variables() -> list[Any]:
    def choose(name: str, label: str, query: str) -> build.QueryVariable:
        return (
            build.QueryVariable(name)
            .label(label)
            .datasource(_SOURCE)
            .query({"query": query, "refId": name})
            .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(model.VariableSort.ALPHABETICAL_ASC)
        )

    return [
        build.DatasourceVariable("datasource").label("Data source").type("prometheus"),
        choose("job", "Job", "label_values(embedship_info, job)"),
        choose("instance", "Instance", 'label_values(embedship_info{job="$job"}, instance)')
        .multi(True)
        .include_all(True)
        .all_value(".*"),
    ]


def _panel(panel: DashboardPanel) -> Any:
    made = _KINDS[panel.kind](panel).title(panel.title).description(panel.description).datasource(_SOURCE)
    made = made.unit(panel.unit).span(panel.width).height(_HEIGHT)
    for letter, query in zip("ABCDEFGH", panel.queries, strict=False):
        target = prometheus.Dataquery().expr(query.expr).legend_format(query.legend).ref_id(letter).datasource(_SOURCE)
        if panel.kind is PanelKind.TABLE:
            target.instant().format(PromQueryFormat.TABLE)
        made.with_target(target.instant() if panel.kind is PanelKind.NUMBER else target)
    return made


def _lines(_: DashboardPanel) -> Any:
    legend = common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)
    tooltip = common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI)
    lines = timeseries.Panel().legend(legend.show_legend(True)).tooltip(tooltip).fill_opacity(8).min(0)
    memory = [
        model.DynamicConfigValue("unit", "bytes"),
        model.DynamicConfigValue("custom.axisPlacement", "right"),
    ]
    dashed = [model.DynamicConfigValue("custom.lineStyle", {"fill": "dash", "dash": [8, 6]})]
    return lines.override_by_regexp("^memory ", memory).override_by_regexp("^(floor|limit|threshold|baseline)", dashed)


def _states(_: DashboardPanel) -> Any:
    options = {value: model.ValueMappingResult(text, colour) for value, (text, colour) in _STATES.items()}
    return statetimeline.Panel().mappings([model.ValueMap(options)]).merge_values(True)


def _number(panel: DashboardPanel) -> Any:
    named = len(panel.queries) == 1  # the series that is there is the answer
    number = stat.Panel().text_mode(BigValueTextMode.NAME if named else BigValueTextMode.VALUE_AND_NAME)
    for cause, colour in COLOURS.items():
        fixed = model.DynamicConfigValue("color", {"mode": "fixed", "fixedColor": colour})
        number.override_by_name(str(cause), [fixed])
    return number


def _table(_: DashboardPanel) -> Any:
    hidden = dict.fromkeys(("Time", "Value", "__name__", "job"), True)
    return table.Panel().with_transformation(
        model.DataTransformerConfig(id_val="organize", options={"excludeByName": hidden})
    )


_KINDS = {PanelKind.LINES: _lines, PanelKind.STATES: _states, PanelKind.NUMBER: _number, PanelKind.TABLE: _table}
