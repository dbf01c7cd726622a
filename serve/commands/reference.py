"""Command `reference`: fits a drift reference on queries from a normal period."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import typer
from rich.table import Table

from embedship import hardware, terminal
from embedship.bundle import Bundle, Variant
from embedship.codes import Vectors
from embedship.commands.options import BundleArgument, JsonOption
from embedship.files import atomic_file
from embedship.monitor.drift.detector import LEAST_EFFECTIVE, MINIMUM
from embedship.monitor.drift.false_alarms import DAY_SECONDS, FalseAlarms
from embedship.monitor.drift.reference import DriftReference
from embedship.queries import QueryLog, encode, prompt, read
from embedship.serve.commands.options import parse_false_alarms, parse_interval
from embedship.serve.offline import references
from embedship.serve.progress import bar


class ReferenceReport(msgspec.Struct, frozen=True):
    """Output of `--json`. Threshold and measured rates are None if there are too few sessions to calibrate them."""

    reference: str
    fingerprint: str
    queries: int  # in the file
    vectors: int  # distinct vectors stored
    effective: float  # number of independent queries with the same statistical weight
    sessions: int | None
    days: float | None  # from the first query to the last
    false_alarms: str
    every_seconds: float
    threshold: float | None
    promised_per_day: float
    measured_per_day: float | None
    measured_interval_per_day: tuple[float, float] | None  # 95%, clustered by held-out block
    variants: list[str]  # variants whose offset from the reference is known
    warnings: list[str]


def reference(
    bundle: BundleArgument,
    queries: Annotated[
        Path,
        typer.Argument(
            metavar="QUERIES.jsonl",
            help='Real queries from a normal period, {"text"} per line. With "session" and "timestamp" the false-alarm '
            "rate is more reliable.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="File to write. An existing file is replaced. Default: BUNDLE.reference.safetensors."
        ),
    ] = None,
    false_alarms: Annotated[
        str, typer.Option("--false-alarms", help='Accepted rate of false alarms: "1 per 30 days", "2 per week".')
    ] = "1 per 30 days",
    every: Annotated[
        str, typer.Option("--every", help='Interval between two drift tests: "60s", "1h", "1 day".')
    ] = "60s",
    as_json: JsonOption = False,
) -> None:
    """Fit a drift reference on real queries. The reference stores the bundle's fingerprint.

    `embedship serve` loads BUNDLE.reference.safetensors if it exists. A warning is printed if the queries cannot
    guarantee the accepted rate of false alarms.
    """
    accepted, seconds = parse_false_alarms(false_alarms), parse_interval(every)
    opened = Bundle.open(bundle)
    path = out or references.default_path(opened)
    atomic_file.check_writable(path, force=True)
    log = read(queries)
    fitted = _fit(opened, log, accepted, seconds)
    atomic_file.write(path, fitted.content())
    report = _report(path, opened, fitted, log, accepted, seconds)
    if as_json:
        typer.echo(msgspec.json.encode(report).decode())
    else:
        _print(report)


def _fit(bundle: Bundle, log: QueryLog, accepted: FalseAlarms, seconds: float) -> DriftReference:
    """Fit the reference on the most accurate variant. Also store how far the other variants shift the mean."""
    from embedship import golden, shapes
    from embedship.encoder import Encoder

    vectors: dict[str, Vectors] = {}
    accurate = most_accurate_variant(bundle)
    for variant in runnable_variants(bundle):
        with Encoder.open(bundle, variant.name) as encoder, bar(variant.name, len(log)) as advance:
            shapes.ensure(encoder)
            golden.check(encoder)
            vectors[variant.name] = encode(encoder, log.texts, advance)
            query_prompt = prompt(encoder)
    return DriftReference.fit(
        vectors[accurate.name],
        bundle.fingerprint,
        prompt=query_prompt,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        sessions=log.sessions,
        times=log.times,
        variants=vectors,
        false_alarms=accepted,
        interval_seconds=seconds,
    )


def most_accurate_variant(bundle: Bundle) -> Variant:
    """Return the variant with the highest mean cosine to the checkpoint; if several are equal, the first one."""
    return max(bundle.variants, key=lambda variant: round(variant.parity.mean, 6))


def runnable_variants(bundle: Bundle) -> list[Variant]:
    """Return the most accurate variant, then the others that this machine can run."""
    accurate, machine = most_accurate_variant(bundle), hardware.machine()
    others = (v for v in bundle.variants if v is not accurate and machine.meets(v.needs))
    return [accurate, *others]


def _report(
    path: Path, bundle: Bundle, fitted: DriftReference, log: QueryLog, accepted: FalseAlarms, seconds: float
) -> ReferenceReport:
    promise, calibration = fitted.promise, fitted.calibration
    return ReferenceReport(
        reference=str(path),
        fingerprint=fitted.fingerprint,
        queries=len(log),
        vectors=len(fitted.vectors),
        effective=round(calibration.effective, 1) if calibration else 0.0,
        sessions=None if log.sessions is None else _sessions(log),
        days=_days(log),
        false_alarms=str(accepted),
        every_seconds=seconds,
        threshold=promise.threshold if promise else None,
        promised_per_day=accepted.per_day,
        measured_per_day=promise.measured_per_day if promise else None,
        measured_interval_per_day=(promise.measured_lower_per_day, promise.measured_upper_per_day) if promise else None,
        variants=sorted(fitted.offsets),
        warnings=[*reliability_warnings(fitted, log), *_variant_warnings(bundle, fitted)],
    )


def _sessions(log: QueryLog) -> int:
    assert log.sessions is not None, "the caller has checked it"
    return len(np.unique(log.sessions[log.sessions >= 0])) + int((log.sessions < 0).sum())


def _days(log: QueryLog) -> float | None:
    return None if log.times is None else round(float(log.times[-1] - log.times[0]) / DAY_SECONDS, 3)


def reliability_warnings(fitted: DriftReference, log: QueryLog) -> list[str]:
    """Return one sentence per reason why the false-alarm rate may be exceeded."""
    warnings = [_sample_warning(fitted), _rate_warning(fitted)]
    if log.sessions is None:
        warnings.append(
            "no query has a `session`: each query counts as a session of its own, and users who rephrase their query "
            "will look like drift"
        )
    days = _days(log)
    if days is None:
        warnings.append("no query has a `timestamp`: differences between mornings, nights and weekends are unknown")
    elif days < 1:
        warnings.append(
            f"the queries cover {days * 24:.1f} hours: differences between mornings, nights and weekends are unknown"
        )
    return [sentence for sentence in warnings if sentence]


def _sample_warning(fitted: DriftReference) -> str:
    """Return a warning if the detector would answer `unknown` because of too few queries."""
    effective = fitted.calibration.effective if fitted.calibration else 0.0
    if len(fitted.vectors) < MINIMUM:
        return f"{len(fitted.vectors)} distinct queries, {MINIMUM} needed: drift stays unknown"
    if effective < LEAST_EFFECTIVE:
        return (
            f"the queries are worth {effective:.0f} independent ones, {LEAST_EFFECTIVE} needed: drift stays unknown. "
            "Give more sessions"
        )
    return ""


def _rate_warning(fitted: DriftReference) -> str:
    """Return a warning if even the lower bound of the false-alarm rate on held-out blocks exceeds the accepted rate."""
    promise = fitted.promise
    if promise is None or promise.measured_lower_per_day <= promise.false_alarms.per_day:
        return ""
    return (
        f"held-out blocks of these queries show {promise.measured_per_day * 30:.1f} false alarms in 30 days (95% lower "
        f"bound {promise.measured_lower_per_day * 30:.1f}), but you accept {promise.false_alarms.per_day * 30:.1f}: "
        "give queries of more days"
    )


def _variant_warnings(bundle: Bundle, fitted: DriftReference) -> list[str]:
    others = [v.name for v in bundle.manifest.variants if v.name not in fitted.offsets]
    if not others:
        return []
    return [f"this machine cannot run {', '.join(others)}: with these variants only larger shifts count as drift"]


def _print(report: ReferenceReport) -> None:
    console = terminal.output()
    console.print(_table(report))
    for warning in report.warnings:
        terminal.warn(warning)


def _table(report: ReferenceReport) -> Table:
    table = Table(
        title=f"drift reference for model {report.fingerprint[:12]}", caption=report.reference, show_header=False
    )
    table.add_column("what")
    table.add_column("value", justify="right")
    for row in (
        ("queries", f"{report.queries:,}"),
        ("distinct queries stored", f"{report.vectors:,}"),
        ("effective independent queries", f"{report.effective:,.0f}"),
        ("sessions", "not given" if report.sessions is None else f"{report.sessions:,}"),
        ("days", "not given" if report.days is None else f"{report.days:,.1f}"),
        ("interval between tests", f"{report.every_seconds:,.0f} s"),
        ("warning threshold (1: no drift)", "-" if report.threshold is None else f"{report.threshold:.2f}"),
        ("false alarms in 30 days, accepted", _per_month(report.promised_per_day)),
        ("false alarms in 30 days, measured", _per_month(report.measured_per_day)),
        ("95% interval of the measured rate", _interval_per_month(report.measured_interval_per_day)),
    ):
        table.add_row(*row)
    return table


def _per_month(per_day: float | None) -> str:
    return "-" if per_day is None else f"{per_day * 30:.2f}"


def _interval_per_month(per_day: tuple[float, float] | None) -> str:
    return "-" if per_day is None else " to ".join(_per_month(end) for end in per_day)
