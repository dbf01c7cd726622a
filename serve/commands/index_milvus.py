"""Command `index` with a Milvus collection as the target."""

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
    bundle: Bundle, variant: str | None, corpus: Path | None, address: Address, options: IndexOptions, as_json: bool
) -> None:
    """Fill a new Milvus collection. `corpus` is None if options were given that Milvus does not support.

    Raises UsageError in that case, and the errors of `load`.
    """
    if corpus is None:
        raise UsageError(
            f"{address}: with a Milvus collection only these can be given: CORPUS.jsonl, --variant, --with-title, "
            "--kind flat or hnsw-sq8, --oversample and --ef-search"
        )
    variant = variant_choice.variant(bundle, variant).name
    with Encoder.open(bundle, variant) as encoder:
        shapes.ensure(encoder)
        golden.check(encoder)  # a machine that computes wrong vectors must not build an index that others then use
        with IndexProgress() as bars:
            loaded = load(encoder, variant, corpus, address, options, partial(bars.show, BuildStep.EMBED))
    if as_json:
        typer.echo(msgspec.json.encode(loaded).decode())
        return
    typer.echo(
        f"{address}: {loaded.documents:,} documents, {loaded.kind}, built with model {loaded.fingerprint[:12]}, "
        f"embedded at {loaded.texts_per_second:,.0f} texts/s; truncated to the model's maximum length: "
        f"{truncated(loaded.truncated, loaded.documents, advice='')}; skipped (no text): {loaded.skipped}"
    )
