"""The verb `reference`: queries of a good time become what later ones are compared with."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from embedship import hardware
from embedship.bundle import Bundle, Variant
from embedship.codes import Vectors
from embedship.files import atomic_file
from embedship.monitor.drift.detector import LEAST_EFFECTIVE, MINIMUM
from embedship.monitor.drift.false_alarms import DAY_SECONDS, FalseAlarms
from embedship.monitor.drift.reference import DriftReference
from embedship.queries import QueryLog, encode, prompt, read
from embedship.serve.commands.options import parse_false_alarms, parse_interval
from embedship.serve.offline import references
from embedship.serve.progress import bar


class ReferenceReport(msgspec.Struct, frozen=True):
    """What `--json` prints. Without a promise (too few sessions) threshold and rates are None."""

    reference: str
    fingerprint: str
    queries: int  # in the file
    vectors: int  # distinct ones, kept
    effective: float  # independent queries that they are worth
    sessions: int | None
    days: float | None  # from the first to the last
    false_alarms: str
    every_seconds: float
    threshold: float | None
    promised_per_day: float
    measured_per_day: float | None
    measured_interval_per_day: tuple[float, float] | None  # 95%, clustered by held-out block
    variants: list[str]  # whose shift is known
    warnings: list[str]


def reference(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle folder.")],
    queries: Annotated[
        Path,
        typer.Argument(
            metavar="QUERIES.jsonl",
            help='Real queries of a good time, {"text"} a line; "session" and "timestamp" make the promise worth more.',
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Where it goes; what is there is replaced. Default: BUNDLE.reference.safetensors."),
    ] = None,
    false_alarms: Annotated[
        str, typer.Option("--false-alarms", help='How many you accept: "1 per 30 days", "2 per week".')
    ] = "1 per 30 days",
    every: Annotated[str, typer.Option("--every", help='How often drift is tested: "60s", "1h", "1 day".')] = "60s",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Fit a drift reference on real queries, bound to the bundle's fingerprint.

    `embedship serve` takes the one that lies beside the bundle. A warning says when the queries cannot keep the
    promised rate of false alarms.
    """
    accepted, seconds = parse_false_alarms(false_alarms), parse_interval(every)
    opened = Bundle.open(bundle)
    path = out or references.beside(opened)
    atomic_file.check_writable(path, force=True)
    log = read(queries)
    fitted = _fit(opened, log, accepted, seconds)
    atomic_file.write(path, fitted.content())
    report = _report(path, opened, fitted, log, accepted, seconds)
    if as_json:
        typer.echo(msgspec.json.encode(report).decode())
    else:
        _tell(report)


def _fit(bundle: Bundle, log: QueryLog, accepted: FalseAlarms, seconds: float) -> DriftReference:
    """On the variant nearest to the checkpoint; of the others it is kept how far they move the mean."""
    from embedship import golden, shapes
    from embedship.encoder import Encoder

    vectors: dict[str, Vectors] = {}
    plain = nearest(bundle)
    for variant in runnable(bundle):
        with Encoder.open(bundle, variant.name) as encoder, bar(variant.name, len(log)) as advance:
            shapes.ensure(encoder)
            golden.check(encoder)
            vectors[variant.name] = encode(encoder, log.texts, advance)
            asked = prompt(encoder)
    return DriftReference.fit(
        vectors[plain.name],
        bundle.fingerprint,
        prompt=asked,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        sessions=log.sessions,
        times=log.times,
        variants=vectors,
        false_alarms=accepted,
        interval_seconds=seconds,
    )


def nearest(bundle: Bundle) -> Variant:
    """The variant whose vectors are most nearly the checkpoint's; of equals the one made first, the plainest."""
    return max(bundle.manifest.variants, key=lambda variant: round(variant.parity.mean, 6))


def runnable(bundle: Bundle) -> list[Variant]:
    """The nearest one first, then the others that this machine can run."""
    plain, here = nearest(bundle), hardware.machine()
    others = (v for v in bundle.manifest.variants if v is not plain and here.meets(v.needs))
    return [plain, *others]


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
        warnings=[*doubts(fitted, log), *_unknown(bundle, fitted)],
    )


def _sessions(log: QueryLog) -> int:
    assert log.sessions is not None, "asked only of a log that has them"
    return len(np.unique(log.sessions[log.sessions >= 0])) + int((log.sessions < 0).sum())


def _days(log: QueryLog) -> float | None:
    return None if log.times is None else round(float(log.times[-1] - log.times[0]) / DAY_SECONDS, 3)


def doubts(fitted: DriftReference, log: QueryLog) -> list[str]:
    """Why the promised rate of false alarms may not hold: a sentence each, none if it should."""
    found = [_worth(fitted), _kept(fitted)]
    if log.sessions is None:
        found.append(
            "no query has a `session`: each is taken for one by itself, and users who ask again in other words will "
            "look like drift"
        )
    days = _days(log)
    if days is None:
        found.append("no query has a `timestamp`: how mornings, nights and weekends differ is not known")
    elif days < 1:
        found.append(f"the queries cover {days * 24:.1f} hours: how mornings, nights and weekends differ is not known")
    return [sentence for sentence in found if sentence]


def _worth(fitted: DriftReference) -> str:
    """The same reasons for which the detector answers `unknown`."""
    effective = fitted.calibration.effective if fitted.calibration else 0.0
    if len(fitted.vectors) < MINIMUM:
        return f"{len(fitted.vectors)} distinct queries, {MINIMUM} needed: drift stays unknown"
    if effective < LEAST_EFFECTIVE:
        return (
            f"the queries are worth {effective:.0f} independent ones, {LEAST_EFFECTIVE} needed: drift stays unknown. "
            "Give more sessions"
        )
    return ""


def _kept(fitted: DriftReference) -> str:
    """Only what held-out blocks show beyond chance is held against the promise."""
    promise = fitted.promise
    if promise is None or promise.measured_lower_per_day <= promise.false_alarms.per_day:
        return ""
    return (
        f"held-out blocks of these queries show {promise.measured_per_day * 30:.1f} false alarms in 30 days, and "
        f"certainly more than {promise.measured_lower_per_day * 30:.1f}; promised are "
        f"{promise.false_alarms.per_day * 30:.1f}: give queries of more days"
    )


def _unknown(bundle: Bundle, fitted: DriftReference) -> list[str]:
    others = [v.name for v in bundle.manifest.variants if v.name not in fitted.offsets]
    if not others:
        return []
    return [f"this machine cannot run {', '.join(others)}: served by these, only larger shifts count as drift"]


def _tell(report: ReferenceReport) -> None:
    console = Console(highlight=False)
    console.print(_table(report))
    for warning in report.warnings:
        Console(stderr=True, highlight=False, soft_wrap=True).print("[yellow]warning:[/]", warning)


def _table(report: ReferenceReport) -> Table:
    table = Table(title=f"bound to model {report.fingerprint[:12]}", caption=report.reference, show_header=False)
    table.add_column("what")
    table.add_column("value", justify="right")
    sessions = "not given" if report.sessions is None else f"{report.sessions:,}"
    for row in (
        ("queries", f"{report.queries:,}"),
        ("distinct ones kept", f"{report.vectors:,}"),
        ("worth independent queries", f"{report.effective:,.0f}"),
        ("sessions", sessions),
        ("days", "not given" if report.days is None else f"{report.days:,.1f}"),
        ("a test", f"each {report.every_seconds:,.0f} s"),
        ("warns above (1: no drift)", "-" if report.threshold is None else f"{report.threshold:.2f}"),
        ("false alarms in 30 days, promised", _monthly(report.promised_per_day)),
        ("false alarms in 30 days, measured", _monthly(report.measured_per_day)),
        ("of that the 95% interval", _between(report.measured_interval_per_day)),
    ):
        table.add_row(*row)
    return table


def _monthly(per_day: float | None) -> str:
    return "-" if per_day is None else f"{per_day * 30:.2f}"


def _between(per_day: tuple[float, float] | None) -> str:
    return "-" if per_day is None else " to ".join(_monthly(end) for end in per_day)
