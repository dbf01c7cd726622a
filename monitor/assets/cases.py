"""promtool's unit tests: for every alert, series on which it fires and series on which it must not."""

from collections.abc import Sequence
from typing import Any

from embedship.monitor.assets.alert import CALM, Alert, AlertCase, shown
from embedship.monitor.assets.rules import ALERTS, annotations, dump

RULES = "rules.yaml"


def promtool_cases() -> str:
    return written([(alert, case) for alert in ALERTS for case in (*alert.fires, *alert.quiet)])


def written(pairs: Sequence[tuple[Alert, AlertCase]]) -> str:
    """A test file. Each case asks for every alert, so one that fires beside the one that is meant fails the test."""
    tests = [_test(alert, case) for alert, case in pairs]
    return dump({"rule_files": [RULES], "evaluation_interval": "1m", "tests": tests})


def _test(alert: Alert, case: AlertCase) -> dict[str, Any]:
    return {
        "name": f"{alert.name}: {case.name}",
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in {**CALM, **case.series}.items()],
        "alert_rule_test": [_expected(each, alert, case) for each in ALERTS],
    }


def _expected(each: Alert, meant: Alert, case: AlertCase) -> dict[str, Any]:
    labels = case.labels if each is meant else case.beside.get(each.name)
    expected: dict[str, Any] = {"eval_time": case.at, "alertname": each.name}
    if labels is not None:
        texts = {key: shown(text, labels, case.value) for key, text in annotations(each).items()}
        expected["exp_alerts"] = [{"exp_labels": {"severity": str(each.severity), **labels}, "exp_annotations": texts}]
    return expected
