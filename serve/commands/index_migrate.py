"""Command `index migrate`: embeds the documents of an index with another bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embedship import variant_choice
from embedship.bundle import Bundle
from embedship.commands.options import JsonOption
from embedship.serve.commands.index import chunking
from embedship.serve.commands.index_progress import IndexProgress
from embedship.serve.commands.index_report import report, show
from embedship.serve.index import IndexKind
from embedship.serve.progress import ProgressCounter


def migrate(
    index: Annotated[Path, typer.Argument(metavar="INDEX", help="Index whose documents are embedded.")],
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Bundle to embed them with.")],
    out: Annotated[
        Path,
        typer.Option(help="Folder of the new index. If a stopped run left its files there, this run continues it."),
    ],
    kind: Annotated[IndexKind | None, typer.Option(help="Kind of the new index (default: as INDEX).")] = None,
    chunk: Annotated[
        int | None, typer.Option(help="Tokens per chunk; 0 for one vector per document (default: as INDEX).")
    ] = None,
    overlap: Annotated[int | None, typer.Option(help="Maximum number of tokens shared by two adjacent chunks.")] = None,
    variant: Annotated[str | None, typer.Option(help="Variant to embed with (default: the chosen variant).")] = None,
    queries: Annotated[
        Path | None,
        typer.Option(help='Measure recall with these queries, {"text"} per line (default: with sampled documents).'),
    ] = None,
    shard_texts: Annotated[
        int, typer.Option(min=1, help="Texts per shard. An interrupted run loses at most the current shard.")
    ] = 8192,
    force: Annotated[
        bool, typer.Option("--force", help="Start again: delete what a stopped run left in --out.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Embed the documents of INDEX with another bundle. INDEX is not changed, and can be served in the meantime.

    If the command is killed, run it again: it continues, and the resulting files are byte-identical.
    """
    from embedship import golden, shapes
    from embedship.encoder import Encoder
    from embedship.serve.index import manifest
    from embedship.serve.indexing import migrate as migration
    from embedship.serve.indexing.build import BuildResult

    new_bundle, old = Bundle.open(bundle), manifest.read(index)
    chunks = old.chunking if chunk is None and overlap is None else chunking(chunk or None, overlap)
    options = migration.options_from_index(old, kind, chunks, queries)
    with Encoder.open(new_bundle, variant_choice.variant(new_bundle, variant).name) as encoder:
        shapes.ensure(encoder)
        golden.check(encoder)
        with IndexProgress() as bars:
            progress = MigrationProgress(bars)
            migrated = migration.migrate(encoder, index, out, options, progress, shard_texts, bars.show, force=force)
    show(report(out, BuildResult(migrated, progress.texts, progress.seconds)), as_json)


class MigrationProgress(ProgressCounter):
    """Progress of the embedding step, shown in `bars`."""

    def __init__(self, bars: IndexProgress) -> None:
        super().__init__()
        self._bars = bars

    def show(self) -> None:
        from embedship.serve.indexing.build import BuildStep

        self._bars.show(BuildStep.EMBED, self.resumed + self.texts, self.total)
