"""The verb `index update`: a file of changes into an index, without a server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.console import Console

from embedship.bundle import Bundle
from embedship.serve.documents.corpus import SkippedDocuments
from embedship.serve.search.address import Address, parse_location

if TYPE_CHECKING:
    from embedship.serve.live.index import MutableIndex
    from embedship.serve.milvus.backend import MilvusBackend


class UpdateReport(msgspec.Struct, frozen=True):
    """What `--json` prints."""

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
            help="The index folder, which stays as it is; or a collection of Milvus.",
        ),
    ],
    changes: Annotated[
        Path,
        typer.Argument(
            metavar="CHANGES.jsonl",
            help="A change a line: a document as `embedship index` takes it, new or in place of the one with its id; "
            'or {"id", "delete": true}.',
        ),
    ],
    bundle: Annotated[Path, typer.Option("--bundle", help="The bundle that the index was built with.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Put and delete documents of an index; what changed lies in INDEX.live, which `serve` and this command read.

    Killed at any point, the same command goes on where it was: what is there already is neither embedded nor written
    again. A server that holds the index with --writable takes changes itself: PUT /documents.
    """
    from embedship import golden, shapes
    from embedship.encoder import Encoder
    from embedship.serve.indexing import update as updating
    from embedship.serve.live.compaction import due
    from embedship.serve.live.index import MutableIndex
    from embedship.serve.progress import bar
    from embedship.serve.settings import Settings

    opened = Bundle.open(bundle)
    lines = updating.count(changes)  # a bad line is known before anything is changed
    with _opened(index, opened) as taken, Encoder.open(opened, taken.manifest.variant) as encoder:
        shapes.ensure(encoder)
        golden.check(encoder)  # a machine that computes wrongly must not fill an index that others then trust
        with bar("updating", lines) as progress:
            updated = updating.update(taken, encoder, changes, progress)
        share = Settings(bundle=bundle).compact_share
        compacted = isinstance(taken, MutableIndex) and due(taken.size, share) and taken.compact()
        report = UpdateReport(
            index=str(index),
            fingerprint=opened.fingerprint,
            lines=lines,
            **msgspec.structs.asdict(updated.done),
            unchanged=updated.unchanged,
            truncated=updated.truncated,
            skipped=updated.skipped,
            documents=taken.size.documents,
            compacted=compacted,
        )
    typer.echo(msgspec.json.encode(report).decode()) if as_json else Console(highlight=False).print(_sentence(report))


def _opened(index: Path | Address, bundle: Bundle) -> MutableIndex | MilvusBackend:
    if isinstance(index, Path):
        from embedship.serve.live.index import MutableIndex

        return MutableIndex.open(index, bundle, writable=True)
    from embedship.serve.milvus.backend import MilvusBackend

    return MilvusBackend.open(index, bundle, writable=True)


def _sentence(report: UpdateReport) -> str:
    cut = f"; {report.truncated:,} are longer than the model reads, and were cut" if report.truncated else ""
    if report.skipped.documents:
        cut += f"; without text, and skipped: {report.skipped}"
    return (
        f"{report.index}: {report.documents:,} documents, {report.new:,} of them new; {report.replaced:,} replaced, "
        f"{report.unchanged:,} unchanged, {report.deleted:,} deleted{cut}"
    )
