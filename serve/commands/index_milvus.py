"""The verb `index` where the index is to lie in Milvus."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import msgspec
import typer

from embedship import golden, shapes, variant_choice
from embedship.bundle import Bundle
from embedship.encoder import Encoder
from embedship.errors import UsageError
from embedship.serve.commands.index_progress import IndexProgress
from embedship.serve.commands.index_report import truncated
from embedship.serve.indexing.build import BuildStep, IndexOptions
from embedship.serve.indexing.milvus import load
from embedship.serve.search.address import Address


def fill(
    bundle: Bundle, variant: str | None, corpus: Path | None, address: Address, wishes: IndexOptions, as_json: bool
) -> None:
    """`corpus` is None where more was asked for than a collection can be. Raises what `load` does."""
    if corpus is None:
        raise UsageError(
            f"{address} takes CORPUS.jsonl, --variant, --with-title, --kind flat or hnsw-sq8, --oversample and "
            "--ef-search, and nothing else"
        )
    chosen = variant_choice.variant(bundle, variant).name
    with Encoder.open(bundle, chosen) as encoder:
        shapes.ensure(encoder)
        golden.check(encoder)  # a machine that computes wrongly must not fill an index that others then trust
        with IndexProgress() as bar:
            loaded = load(encoder, chosen, corpus, address, wishes, partial(bar.show, BuildStep.EMBED))
    if as_json:
        typer.echo(msgspec.json.encode(loaded).decode())
        return
    typer.echo(
        f"{address}: {loaded.documents:,} documents, {loaded.kind}, bound to model {loaded.fingerprint[:12]}, "
        f"embedded at {loaded.texts_per_second:,.0f} texts/s; longer than the model reads, cut off: "
        f"{truncated(loaded.truncated, loaded.documents, cure='')}; without text, skipped: {loaded.skipped}"
    )
