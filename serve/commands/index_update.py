"""Command `index update`: applies a file of changes to an index without a server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from embedship import terminal
from embedship.bundle import Bundle
from embedship.commands.options import JsonOption
from embedship.serve.documents.corpus import SkippedDocuments
from embedship.serve.search.address import Address, parse_location

if TYPE_CHECKING:
    from embedship.serve.live.index import MutableIndex
    from embedship.serve.milvus.backend import MilvusBackend


class UpdateReport(msgspec.Struct, frozen=True):
    """Output of `--json`."""

    index: str
    fingerprint: str
    lines: int
    new: int
    replaced: int
    unchanged: int
    deleted: int
    truncated: int
    skipped: SkippedDocuments  # documents without text
    documents: int  # in the index now
    compacted: bool


def update(
    index: Annotated[
        Any,
        typer.Argument(
            parser=parse_location,
            metavar="INDEX",
            help="Index folder, which is not changed (changes go to INDEX.live), or a Milvus collection.",
        ),
    ],
    changes: Annotated[
        Path,
        typer.Argument(
            metavar="CHANGES.jsonl",
            help="One change per line: a document as for `embedship index`, which is added or replaces the document "
            'with the same id; or {"id", "delete": true}.',
        ),
    ],
    bundle: Annotated[Path, typer.Option("--bundle", help="Bundle that the index was built with.")],
    as_json: JsonOption = False,
) -> None:
    """Add, replace and delete documents of an index. Changes are stored in INDEX.live, which `serve` also reads.

    If the command is killed, run it again: it continues, and neither embeds nor writes again what is already stored.
    If a server runs on the index with --writable, send changes to the server instead: PUT /documents.
    """
    from embedship import golden, shapes
    from embedship.encoder import Encoder
    from embedship.serve.indexing import update as updating
    from embedship.serve.live.compaction import due
    from embedship.serve.live.index import MutableIndex
    from embedship.serve.progress import bar
    from embedship.serve.settings import Settings

    opened = Bundle.open(bundle)
    lines = updating.count(changes)  # reads the whole file, so that an invalid line is reported before any change
    with _open_index(index, opened) as backend, Encoder.open(opened, backend.manifest.variant) as encoder:
        shapes.ensure(encoder)
        golden.check(encoder)  # a machine that computes wrong vectors must not write to an index that others use
        with bar("updating", lines) as progress:
            updated = updating.update(backend, encoder, changes, progress)
        share = Settings(bundle=bundle).compact_share
        compacted = isinstance(backend, MutableIndex) and due(backend.size, share) and backend.compact()
        report = UpdateReport(
            index=str(index),
            fingerprint=opened.fingerprint,
            lines=lines,
            **msgspec.structs.asdict(updated.done),
            unchanged=updated.unchanged,
            truncated=updated.truncated,
            skipped=updated.skipped,
            documents=backend.size.documents,
            compacted=compacted,
        )
    typer.echo(msgspec.json.encode(report).decode()) if as_json else terminal.output().print(_summary(report))


def _open_index(index: Path | Address, bundle: Bundle) -> MutableIndex | MilvusBackend:
    if isinstance(index, Path):
        from embedship.serve.live.index import MutableIndex

        return MutableIndex.open(index, bundle, writable=True)
    from embedship.serve.milvus.backend import MilvusBackend

    return MilvusBackend.open(index, bundle, writable=True)


def _summary(report: UpdateReport) -> str:
    notes = f"; {report.truncated:,} truncated to the model's maximum length" if report.truncated else ""
    if report.skipped.documents:
        notes += f"; skipped (no text): {report.skipped}"
    return (
        f"{report.index}: {report.documents:,} documents now; {report.new:,} added, {report.replaced:,} replaced, "
        f"{report.unchanged:,} unchanged, {report.deleted:,} deleted{notes}"
    )
