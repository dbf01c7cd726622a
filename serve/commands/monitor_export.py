"""`embedship monitor export`: what was noticed in service, handed to the next training."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from embedship.bundle import Bundle
from embedship.errors import MismatchError, UnsafeError, UsageError
from embedship.files import atomic_file, jsonl
from embedship.monitor import snapshot
from embedship.monitor.drift.window import QueryWindow
from embedship.monitor.errors import SnapshotMismatch, SnapshotUnreadable
from embedship.monitor.recall.feedback import JudgedQuery
from embedship.monitor.recall.probes import LabelledProbe
from embedship.serve.offline import references
from embedship.serve.service.monitor_setup import PROBES

if TYPE_CHECKING:
    from embedship.serve.offline.training_data import TrainingTriplet, TripletBuilder, TripletSources, UnlabelledQuery


class TrainingExportReport(msgspec.Struct, frozen=True):
    """What `--json` prints and what lies beside the triplets, so that it is known later what they were made of."""

    triplets: int
    unlabelled: int
    files: list[str]
    fingerprint: str
    index: str  # its digest
    negatives: int  # asked for, for each answer
    sources: TripletSources


class TrainingInputs(NamedTuple):
    pairs: tuple[JudgedQuery, ...]
    window: QueryWindow | None
    probes: list[LabelledProbe]


class ExportPaths(NamedTuple):
    """Beside one another: triplets, queries without a label, and what both were made of."""

    triplets: Path
    unlabelled: Path
    about: Path

    @classmethod
    def of(cls, out: Path) -> ExportPaths:
        stem = out.name.removesuffix(".jsonl")
        return cls(out, out.with_name(f"{stem}.unlabelled.jsonl"), out.with_name(f"{stem}.about.json"))


def export(
    bundle: Annotated[Path, typer.Option("--bundle", help="The bundle folder.")],
    index: Annotated[Path, typer.Option("--index", help="The index folder that is served.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE.jsonl", help="Where the triplets go.")],
    state: Annotated[
        Path | None, typer.Option("--state", metavar="DIR", help="The server's --state-dir: feedback and queries.")
    ] = None,
    probes: Annotated[
        Path | None, typer.Option("--probes", help="Labelled queries (default: probes.jsonl beside the index).")
    ] = None,
    reference: Annotated[
        Path | None, typer.Option("--reference", help="Drift reference (default: beside the bundle, else in it).")
    ] = None,
    negatives: Annotated[int, typer.Option("--negatives", min=1, max=50, help="Triplets for each right answer.")] = 5,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are already there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Write what a re-training needs: (anchor, positive, negative) lines, and queries that need a label.

    Judged queries and failed probes become triplets with negatives mined from the index: near, but not relevant.
    Queries unlike the reference go to FILE.unlabelled.jsonl with what was found for them.
    """
    paths = ExportPaths.of(out)
    for path in paths:
        atomic_file.check_writable(path, force)
    opened = Bundle.open(bundle)
    noticed = _noticed(opened, state, probes or _beside(index))
    done = _handover(opened, index, noticed, reference, negatives, paths)
    if as_json:
        typer.echo(msgspec.json.encode(done).decode())
    else:
        Console(highlight=False).print(_table(done))


def _beside(index: Path) -> Path | None:
    path = index.parent / PROBES
    return path if path.is_file() else None


def _noticed(bundle: Bundle, state: Path | None, probes: Path | None) -> TrainingInputs:
    if state is None and probes is None:
        raise UsageError("nothing to learn from: give --state DIR of the server, or --probes FILE, or both")
    asked = list(jsonl.read(probes, LabelledProbe)) if probes else []
    if state is None:
        return TrainingInputs((), None, asked)
    try:
        found = snapshot.read(state, bundle.fingerprint)
    except SnapshotMismatch as error:
        raise MismatchError(str(error)) from error
    except SnapshotUnreadable as error:
        raise UnsafeError(str(error)) from error
    if found is None:
        raise UsageError(f"{state} holds no {snapshot.NAME}: give the folder that the server has as --state-dir")
    return TrainingInputs(found[0].pairs, found[1], asked)


def _handover(
    bundle: Bundle, index: Path, noticed: TrainingInputs, reference: Path | None, negatives: int, paths: ExportPaths
) -> TrainingExportReport:
    from embedship.encoder import Encoder
    from embedship.serve.index.folder import IndexFolder
    from embedship.serve.live import origin
    from embedship.serve.offline.training_data import TripletBuilder

    origin.refuse(index)
    with (
        IndexFolder.open(index, bundle) as folder,
        Encoder.open(bundle, folder.manifest.variant) as encoder,
        Console(stderr=True).status("mining") as status,
    ):
        school = TripletBuilder.open(encoder, folder, index)
        triplets, sources = _triplets(school, noticed, negatives)
        status.update("queries unlike the reference")
        unlabelled = _unlabelled(school, bundle, noticed.window, reference)
        digest = folder.manifest.digest
    if not triplets and not unlabelled:
        raise UsageError(_nothing(noticed))
    done = TrainingExportReport(
        triplets=len(triplets),
        unlabelled=len(unlabelled),
        files=[str(path) for path in paths],
        fingerprint=bundle.fingerprint,
        index=digest,
        negatives=negatives,
        sources=msgspec.structs.replace(sources, drifted=len(unlabelled)),
    )
    # Texts of users: for the owner's eyes only, as the server's state is.
    atomic_file.write(paths.triplets, _lines(triplets), private=True)
    atomic_file.write(paths.unlabelled, _lines(unlabelled), private=True)
    atomic_file.write(paths.about, msgspec.json.format(msgspec.json.encode(done), indent=1) + b"\n")
    return done


def _triplets(
    school: TripletBuilder, noticed: TrainingInputs, negatives: int
) -> tuple[list[TrainingTriplet], TripletSources]:
    from embedship.serve.offline.training_data import TripletSources

    judged, unknown = school.judged(noticed.pairs)
    failed, missing = school.failed(noticed.probes)
    made, alone = school.triplets([*judged, *failed], negatives)
    return list(dict.fromkeys(made)), TripletSources(
        feedback=len(judged),
        probes=len(noticed.probes),
        failed_probes=len(failed),
        missing=unknown + missing,
        alone=alone,
    )


def _unlabelled(
    school: TripletBuilder, bundle: Bundle, window: QueryWindow | None, given: Path | None
) -> list[UnlabelledQuery]:
    from embedship.monitor.drift.evidence import ReferenceClusters
    from embedship.serve.offline.training_data import drifted

    reference = references.find(bundle, given)
    if reference is None or window is None:
        return []
    return school.unlabelled(drifted(ReferenceClusters.fit(reference.vectors), window))


def _lines(rows: Iterable[msgspec.Struct]) -> bytes:
    return b"".join(msgspec.json.encode(row) + b"\n" for row in rows)


def _nothing(noticed: TrainingInputs) -> str:
    kept = noticed.window is not None and any(text is not None for text in noticed.window.texts)
    texts = "" if kept else ", and no text of a query was kept (`embedship serve --keep-queries N`)"
    return (
        f"nothing to hand over: {len(noticed.pairs)} judged queries, {len(noticed.probes)} probes, none of which "
        f"failed{texts}"
    )


def _table(done: TrainingExportReport) -> Table:
    sources = done.sources
    table = Table(title=f"for model {done.fingerprint[:12]}", show_header=False)
    table.add_column("what")
    table.add_column("value", justify="right")
    for what, value in (
        ("triplets", done.triplets),
        ("judged queries", sources.feedback),
        ("failed probes", f"{sources.failed_probes:,} of {sources.probes:,}"),
        ("right answers that the index does not hold", sources.missing),
        ("right answers without a negative", sources.alone),
        ("queries unlike the reference, to be labelled", done.unlabelled),
    ):
        table.add_row(what, value if isinstance(value, str) else f"{value:,}")
    table.caption = "\n".join(done.files)
    return table
