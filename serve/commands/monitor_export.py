"""Command `monitor export`: writes training data from the observations of a server."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import msgspec
import typer
from rich.table import Table

from embedship import terminal
from embedship.bundle import Bundle
from embedship.commands.options import JsonOption
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
    """Output of `--json`, also written next to the triplets to record their sources."""

    triplets: int
    unlabelled: int
    files: list[str]
    fingerprint: str
    index: str  # digest of the index
    negatives: int  # requested negatives per relevant document
    sources: TripletSources


class TrainingInputs(NamedTuple):
    """Feedback pairs, the window of recent queries (None without --state-dir), and labelled probes."""

    pairs: tuple[JudgedQuery, ...]
    window: QueryWindow | None
    probes: list[LabelledProbe]


class ExportPaths(NamedTuple):
    """Output files in one folder: triplets, queries without a label, and a report about both."""

    triplets: Path
    unlabelled: Path
    about: Path

    @classmethod
    def from_out(cls, out: Path) -> ExportPaths:
        stem = out.name.removesuffix(".jsonl")
        return cls(out, out.with_name(f"{stem}.unlabelled.jsonl"), out.with_name(f"{stem}.about.json"))


def export(
    bundle: Annotated[Path, typer.Option("--bundle", help="Bundle folder.")],
    index: Annotated[Path, typer.Option("--index", help="Index folder that is served.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE.jsonl", help="File for the triplets.")],
    state: Annotated[
        Path | None,
        typer.Option("--state-dir", metavar="DIR", help="The server's --state-dir, with feedback and recent queries."),
    ] = None,
    probes: Annotated[
        Path | None,
        typer.Option(
            "--probes", help="Labelled queries (default: probes.jsonl in the folder that contains the index)."
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            "--reference", help="Drift reference (default: BUNDLE.reference.safetensors, or the one in the bundle)."
        ),
    ] = None,
    negatives: Annotated[
        int, typer.Option("--negatives", min=1, max=50, help="Number of triplets per relevant document.")
    ] = 5,
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write data for re-training: (anchor, positive, negative) lines, and queries that need a label.

    Queries with feedback and failed probes become triplets. Their negatives are mined from the index: documents that
    are similar but not relevant. Queries unlike the reference are written to FILE.unlabelled.jsonl with their hits.
    """
    paths = ExportPaths.from_out(out)
    for path in paths:
        atomic_file.check_writable(path, force)
    opened = Bundle.open(bundle)
    inputs = _read_inputs(opened, state, probes or _default_probes(index))
    report = _export(opened, index, inputs, reference, negatives, paths)
    if as_json:
        typer.echo(msgspec.json.encode(report).decode())
    else:
        terminal.output().print(_table(report))


def _default_probes(index: Path) -> Path | None:
    path = index.parent / PROBES
    return path if path.is_file() else None


def _read_inputs(bundle: Bundle, state: Path | None, probes: Path | None) -> TrainingInputs:
    if state is None and probes is None:
        raise UsageError("there is no input: give --state-dir DIR of the server, --probes FILE, or both")
    labelled = list(jsonl.read(probes, LabelledProbe)) if probes else []
    if state is None:
        return TrainingInputs((), None, labelled)
    try:
        saved = snapshot.read(state, bundle.fingerprint)
    except SnapshotMismatch as error:
        raise MismatchError(str(error)) from error
    except SnapshotUnreadable as error:
        raise UnsafeError(str(error)) from error
    if saved is None:
        raise UsageError(f"{state} contains no {snapshot.NAME}: give the folder that the server uses as --state-dir")
    return TrainingInputs(saved[0].pairs, saved[1], labelled)


def _export(
    bundle: Bundle, index: Path, inputs: TrainingInputs, reference: Path | None, negatives: int, paths: ExportPaths
) -> TrainingExportReport:
    from embedship.encoder import Encoder
    from embedship.serve.index.folder import IndexFolder
    from embedship.serve.live import origin
    from embedship.serve.offline.training_data import TripletBuilder

    origin.require_unchanged(index)
    with (
        IndexFolder.open(index, bundle) as folder,
        Encoder.open(bundle, folder.manifest.variant) as encoder,
        terminal.messages().status("mining negatives") as status,
    ):
        builder = TripletBuilder.open(encoder, folder, index)
        triplets, sources = _build_triplets(builder, inputs, negatives)
        status.update("finding queries unlike the reference")
        unlabelled = _find_unlabelled(builder, bundle, inputs.window, reference)
        digest = folder.manifest.digest
    if not triplets and not unlabelled:
        raise UsageError(_nothing_to_export(inputs))
    report = TrainingExportReport(
        triplets=len(triplets),
        unlabelled=len(unlabelled),
        files=[str(path) for path in paths],
        fingerprint=bundle.fingerprint,
        index=digest,
        negatives=negatives,
        sources=msgspec.structs.replace(sources, drifted=len(unlabelled)),
    )
    # The files contain texts of users: only their owner may read them, as with the server's state.
    atomic_file.write(paths.triplets, _json_lines(triplets), private=True)
    atomic_file.write(paths.unlabelled, _json_lines(unlabelled), private=True)
    atomic_file.write(paths.about, msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    return report


def _build_triplets(
    builder: TripletBuilder, inputs: TrainingInputs, negatives: int
) -> tuple[list[TrainingTriplet], TripletSources]:
    from embedship.serve.offline.training_data import TripletSources

    feedback_queries, unknown = builder.from_feedback(inputs.pairs)
    failed, missing = builder.from_failed_probes(inputs.probes)
    triplets, without_negative = builder.build_triplets([*feedback_queries, *failed], negatives)
    return list(dict.fromkeys(triplets)), TripletSources(
        feedback=len(feedback_queries),
        probes=len(inputs.probes),
        failed_probes=len(failed),
        missing=unknown + missing,
        alone=without_negative,
    )


def _find_unlabelled(
    builder: TripletBuilder, bundle: Bundle, window: QueryWindow | None, reference_path: Path | None
) -> list[UnlabelledQuery]:
    from embedship.monitor.drift.evidence import ReferenceClusters
    from embedship.serve.offline.training_data import drifted_queries

    reference = references.find(bundle, reference_path)
    if reference is None or window is None:
        return []
    return builder.find_unlabelled(drifted_queries(ReferenceClusters.fit(reference.vectors), window))


def _json_lines(rows: Iterable[msgspec.Struct]) -> bytes:
    return b"".join(msgspec.json.encode(row) + b"\n" for row in rows)


def _nothing_to_export(inputs: TrainingInputs) -> str:
    has_texts = inputs.window is not None and any(text is not None for text in inputs.window.texts)
    texts = "" if has_texts else ". The server kept no query texts (`embedship serve --keep-queries N` keeps them)"
    return (
        f"nothing to export: {len(inputs.pairs)} queries with feedback, and {len(inputs.probes)} probes of which none "
        f"failed{texts}"
    )


def _table(report: TrainingExportReport) -> Table:
    sources = report.sources
    table = Table(title=f"training data for model {report.fingerprint[:12]}", show_header=False)
    table.add_column("what")
    table.add_column("value", justify="right")
    for name, value in (
        ("triplets", report.triplets),
        ("queries with feedback", sources.feedback),
        ("failed probes", f"{sources.failed_probes:,} of {sources.probes:,}"),
        ("relevant documents missing from the index", sources.missing),
        ("relevant documents without a negative", sources.alone),
        ("queries unlike the reference, to be labelled", report.unlabelled),
    ):
        table.add_row(name, value if isinstance(value, str) else f"{value:,}")
    table.caption = "\n".join(report.files)
    return table
