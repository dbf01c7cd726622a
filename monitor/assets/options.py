"""Applies an operator's options to the rules: severities, labels, thresholds, disabled alerts, and required jobs.

It edits the text of the shipped files. So it needs none of the libraries that generate the rules.
"""

import json
import re
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from embedship.monitor.errors import InvalidSetting

RULES, CASES = "rules.yaml", "rules.test.yaml"
ABSENT = "EmbedshipAbsent"

_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_RULE = re.compile(r"^(?=  - (?:alert|record): |- name: )", re.MULTILINE)
_TEST = re.compile(r"^(?=- name: )", re.MULTILINE)
_EXPECTED = re.compile(r"^(?=  - eval_time: )", re.MULTILINE)


class AlertThreshold(NamedTuple):
    """A threshold. `text`: how it appears in rules whose name begins with `rule`, with {} for the value."""

    rule: str
    text: str
    default: str
    meaning: str


THRESHOLDS = {
    "failures_fast": AlertThreshold(
        "EmbedshipHighErrorRate", "> {}\n", "0.0144", "share of failed requests, over 1 h and 5 min"
    ),
    "failures_slow": AlertThreshold(
        "EmbedshipHighErrorRate", "> {}\n", "0.006", "share of failed requests, over 6 h and 30 min"
    ),
    "slow_fast": AlertThreshold(
        "EmbedshipLatencyHigh", "> {}\n", "0.144", "share of slow searches, over 1 h and 5 min"
    ),
    "slow_slow": AlertThreshold(
        "EmbedshipLatencyHigh", "> {}\n", "0.06", "share of slow searches, over 6 h and 30 min"
    ),
    "search_seconds": AlertThreshold(
        "embedship:search_slow", 'le="{}"', "0.25", "a slower search counts as slow (a histogram bucket)"
    ),
    "request_seconds": AlertThreshold(
        "embedship:request_slow",
        'le="{}"',
        "2.5",
        "a slower request to another route counts as slow (a histogram bucket)",
    ),
    "queue_age_seconds": AlertThreshold("EmbedshipQueueWaiting", "> {}\n", "5", "age of the oldest interactive text"),
    "backup_age_seconds": AlertThreshold("EmbedshipBackupOld", "> {}\n", "172800", "age of the last backup"),
    "restarts": AlertThreshold("EmbedshipRestarting", ">= {}\n", "3", "restarts within an hour"),
}


class AssetOptions(msgspec.Struct, frozen=True, kw_only=True):
    """New severities and thresholds by name, labels for every alert, disabled alerts, jobs as JOB or NAMESPACE/JOB."""

    severities: dict[str, str] = {}
    labels: dict[str, str] = {}
    thresholds: dict[str, float] = {}
    disabled: tuple[str, ...] = ()
    jobs: tuple[str, ...] = ()


def customised(texts: dict[str, str], options: AssetOptions) -> dict[str, str]:
    """Apply options to the shipped files. Raises InvalidSetting for an unknown name.

    The promtool tests match only the shipped thresholds and jobs. If the options change these, the tests are left out.
    """
    rules = _RULE.split(texts[RULES])
    names = [_name(rule) for rule in rules]
    _require("disable", options.disabled, [name for name in names if name.startswith("Embedship")])
    _require("threshold", options.thresholds, THRESHOLDS)
    _require("label", [name for name in options.labels if name == "severity" or not _LABEL.fullmatch(name)], ())
    enabled = [
        _thresholds(rule, options) for rule, name in zip(rules, names, strict=True) if name not in options.disabled
    ]
    changed = {**texts, RULES: _labelled("".join(_jobs(rule, options.jobs) for rule in enabled), options)}
    if options.thresholds or options.jobs:
        del changed[CASES]
    else:
        changed[CASES] = _labelled(_tests(texts[CASES], options.disabled), options)
    for name in options.disabled:
        changed.pop(f"runbooks/{name}.md", None)
    return changed


def _name(rule: str) -> str:
    match = re.match(r"  - (?:alert|record): (\S+)", rule)
    return match[1] if match else ""


def _require(option: str, given: Iterable[str], known: Iterable[str]) -> None:
    names = list(known)
    for name in given:
        if name not in names:
            allowed = f"one of {', '.join(names)}" if names else "a label name other than severity"
            raise InvalidSetting(option, name, allowed)


def _thresholds(rule: str, options: AssetOptions) -> str:
    for name, value in options.thresholds.items():
        threshold = THRESHOLDS[name]
        if _name(rule).startswith(threshold.rule):
            rule = rule.replace(threshold.text.format(threshold.default), threshold.text.format(f"{value:g}"))
    return rule


def _jobs(rule: str, jobs: tuple[str, ...]) -> str:
    """Replace the alert EmbedshipAbsent by one alert for each required job."""
    if _name(rule) != ABSENT or not jobs:
        return rule
    return "".join(_absent(rule, job) for job in jobs)


def _absent(rule: str, job: str) -> str:
    namespace, _, name = job.rpartition("/")
    pairs = {"namespace": namespace, "job": name} if namespace else {"job": name}
    chosen = ", ".join(f"{key}={json.dumps(value)}" for key, value in pairs.items())
    rule = re.sub(r"(?s)    expr: \|\n.*?    for: ", lambda _: f"    expr: {_quoted(chosen)}\n    for: ", rule)
    rule = re.sub(r"summary: .*", f"summary: Prometheus has no target of {job}", rule)
    return re.sub(
        r"description: .*",
        f"description: No target of {job} has exported embedship_ready for 10 minutes. It is gone or not scraped.",
        rule,
    )


def _quoted(chosen: str) -> str:
    return f"'absent_over_time(embedship_ready{{{chosen}}}[10m])'"


def _tests(text: str, disabled: tuple[str, ...]) -> str:
    names = {f"alertname: {name}\n" for name in disabled}
    tests = [test for test in _TEST.split(text) if not re.match(rf"- name: '?({'|'.join(disabled) or '-'}):", test)]
    return "".join(
        "".join(each for each in _EXPECTED.split(test) if not any(name in each for name in names)) for test in tests
    )


def _labelled(text: str, options: AssetOptions) -> str:
    """Replace the severities, and add the labels after each of them."""
    _require("severity", options.severities, ("page", "warn"))

    def changed(match: re.Match[str]) -> str:
        lines = {"severity": options.severities.get(match[2], match[2]), **options.labels}
        return "\n".join(f"{match[1]}{name}: {json.dumps(value)}" for name, value in lines.items())

    if not options.severities and not options.labels:
        return text
    return re.sub(r"^( +)severity: (page|warn)$", changed, text, flags=re.MULTILINE)
