"""The verb `index migrate`: the documents of an index, embedded by another bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embedship import variant_choice
from embedship.bundle import Bundle
from embedship.serve.commands.index import chunking
from embedship.serve.commands.index_progress import IndexProgress
from embedship.serve.commands.index_report import report, show
from embedship.serve.index import IndexKind
from embedship.serve.progress import ProgressCounter


def migrate(
    index: Annotated[Path, typer.Argument(metavar="INDEX", help="The index whose documents are embedded.")],
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle to embed them with.")],
    out: Annotated[Path, typer.Option(help="Where the new index goes; a run that was stopped goes on.")],
    kind: Annotated[IndexKind | None, typer.Option(help="How it searches (default: as the old one).")] = None,
    chunk: Annotated[
        int | None, typer.Option(help="Tokens a chunk; 0: a vector a document (default: as the old one).")
    ] = None,
    overlap: Annotated[int | None, typer.Option(help="Tokens that two neighbouring chunks may share.")] = None,
    variant: Annotated[str | None, typer.Option(help="The variant to embed with (default: the chosen one).")] = None,
    queries: Annotated[
        Path | None,
        typer.Option(help='Measure recall with these questions, {"text"} a line (default: with sampled documents).'),
    ] = None,
    shard_texts: Annotated[int, typer.Option(min=1, help="Texts a shard: what a kill costs at most.")] = 8192,
    force: Annotated[bool, typer.Option("--force", help="Begin anew: delete what a stopped run left.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Embed the documents of INDEX with another bundle; INDEX itself stays as it is, and may be served meanwhile.

    Killed at any point, the same command goes on and ends with the same bytes.
    """
    from embedship import golden, shapes
    from embedship.encoder import Encoder
    from embedship.serve.index import manifest
    from embedship.serve.indexing import migrate as migration
    from embedship.serve.indexing.build import BuildResult

    opened, old = Bundle.open(bundle), manifest.read(index)
    cut = old.chunking if chunk is None and overlap is None else chunking(chunk or None, overlap)
    wishes = migration.as_before(old, kind, cut, queries)
    with Encoder.open(opened, variant_choice.variant(opened, variant).name) as encoder:
        shapes.ensure(encoder)
        golden.check(encoder)
        with IndexProgress() as bar:
            watcher = MigrationProgress(bar)
            made = migration.migrate(encoder, index, out, wishes, watcher, shard_texts, bar.show, force=force)
    show(report(out, BuildResult(made, watcher.texts, watcher.seconds)), as_json)


class MigrationProgress(ProgressCounter):
    """Progress of the embedding."""

    def __init__(self, bar: IndexProgress) -> None:
        super().__init__()
        self._bar = bar

    def show(self) -> None:
        from embedship.serve.indexing.build import BuildStep

        self._bar.show(BuildStep.EMBED, self.resumed + self.texts, self.total)
