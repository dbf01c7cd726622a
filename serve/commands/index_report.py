"""Report of the index commands about a finished index, as JSON or as a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import typer
from rich.table import Table

from embedship import terminal
from embedship.bundle import VectorCode
from embedship.serve.documents.chunking import Chunking
from embedship.serve.documents.corpus import SkippedDocuments
from embedship.serve.index import IndexKind
from embedship.serve.index.effort import SearchEffort
from embedship.serve.index.manifest import SAMPLED, VECTORS, IndexChoice, IndexRecall, TruncatedTexts
from embedship.serve.index.recipe import RerankStore

if TYPE_CHECKING:
    from embedship.serve.indexing.build import BuildResult


class IndexReport(msgspec.Struct, frozen=True):
    """Output of `--json`."""

    index: str
    fingerprint: str
    variant: str
    kind: IndexKind
    factory: str
    stage_dimension: int
    store: RerankStore | None
    effort: SearchEffort
    documents: int
    skipped: SkippedDocuments  # documents of the corpus without text
    rows: int  # number of vectors: the number of chunks if documents were split
    chunking: Chunking | None
    dimension: int
    truncated: TruncatedTexts
    exact: VectorCode  # storage type of the exact vectors on disk
    exact_bytes: int
    disk_bytes: int
    hot_bytes_per_vector: float
    texts_per_second: float | None  # None if nothing was embedded
    recall: IndexRecall | None
    choice: IndexChoice | None


def report(out: Path, built: BuildResult) -> IndexReport:
    manifest = built.manifest
    return IndexReport(
        index=str(out),
        fingerprint=manifest.fingerprint,
        variant=manifest.variant,
        kind=manifest.kind,
        factory=manifest.recipe.factory,
        stage_dimension=manifest.recipe.dimension,
        store=manifest.recipe.store,
        effort=manifest.effort,
        documents=manifest.documents,
        skipped=built.skipped,
        rows=manifest.size,
        chunking=manifest.chunking,
        dimension=manifest.dimension,
        truncated=manifest.truncated,
        exact=manifest.exact,
        exact_bytes=manifest.files[VECTORS].size,
        disk_bytes=sum(file.size for file in manifest.files.values()),
        hot_bytes_per_vector=manifest.hot_bytes,
        texts_per_second=round(built.texts / built.seconds, 1) if built.texts else None,
        recall=manifest.recall,
        choice=manifest.choice,
    )


def show(report: IndexReport, as_json: bool) -> None:
    if as_json:
        typer.echo(msgspec.json.encode(report).decode())
    else:
        terminal.output().print(_table(report))


def _table(report: IndexReport) -> Table:
    table = Table(title=f"{report.index}, built with model {report.fingerprint[:12]}", show_header=False)
    table.add_column("what")
    table.add_column("value", justify="right")
    for row in (
        ("documents", f"{report.documents:,}"),
        ("documents skipped (no text)", str(report.skipped)),
        ("chunks", _chunks(report)),
        ("truncated to the model's maximum length", truncated(report.truncated, report.rows)),
        ("kind", f"{report.kind} ({report.factory}), {report.stage_dimension} dimensions"),
        ("re-ranked with", report.store or "nothing (exact index)"),
        ("search effort", str(report.effort)),
        ("variant", report.variant),
        ("size on disk", f"{report.disk_bytes / 1e6:,.1f} MB"),
        ("of which exact vectors", f"{report.exact_bytes / 1e6:,.1f} MB as {report.exact}"),
        ("memory per vector", f"{report.hot_bytes_per_vector:,.1f} bytes"),
        ("embedding speed", f"{speed:,.0f} texts/s" if (speed := report.texts_per_second) else "not embedded again"),
        ("recall@10 against exact search", _recall(report)),
    ):
        table.add_row(*row)
    return table


def _chunks(report: IndexReport) -> str:
    if report.chunking is None:
        return "none (one vector per document)"
    return f"{report.rows:,}, at most {report.chunking.tokens} tokens each, overlap {report.chunking.overlap} tokens"


def truncated(truncation: TruncatedTexts, rows: int, advice: str = "; use --chunk to keep them") -> str:
    """Describe the truncated texts of an index with `rows` vectors, followed by `advice` if there are any."""
    if not truncation.texts:
        return "none"
    return (
        f"{truncation.texts:,} ({truncation.texts / rows:.1%}); "
        f"{truncation.tokens:,} tokens lost ({truncation.tokens / truncation.of:.1%} of all), "
        f"at most {truncation.worst:,} of one text ({truncation.worst_id}){advice}"
    )


def _recall(report: IndexReport) -> str:
    recall = report.recall
    if recall is None:
        return "not measured (nothing to compare)"
    if recall.source != SAMPLED:
        queries = f"queries from {recall.source}"
    else:
        queries = f"{'documents' if report.chunking is None else 'chunks'} as queries"
    return f"{recall.ratio:.4f} ({recall.queries:,} {queries})"
