"""What an export ends with: a table to read, or JSON to pipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from rich.box import SIMPLE
from rich.table import Table

from embedship import levels
from embedship.bundle import Bundle, Quality
from embedship.export.variants import PLAIN

_METRICS = ("recall@10", "ndcg@10", "mrr@10", "map@100", "accuracy@1")


def table(bundle: Bundle) -> Table:
    """One row a variant: fused and quantised operators counted, ratio to plain ONNX, * for what `serve` takes here."""
    choice = bundle.manifest.choice
    plain = choice.tokens_per_second[PLAIN]
    shown = Table(
        box=SIMPLE,
        pad_edge=False,
        padding=(0, 1, 0, 0),  # 80 columns hold it
        caption=f"* is what serve takes on: {choice.machine.cpu}, {choice.machine.cores:g} cores",
    )
    for heading in ("", "variant", "runs as", "MB", "fused", "cos min", "cos mean", "tokens/s", "ratio"):
        shown.add_column(heading, justify="left" if heading in ("", "variant", "runs as") else "right", no_wrap=True)
    for v in bundle.manifest.variants:
        speed = choice.tokens_per_second.get(v.name)  # none where this machine may not serve it
        cosines = (f"{v.parity.minimum:.5f}", f"{v.parity.mean:.5f}")
        mark = "*" if v.name == choice.variant else ""
        size, fused = f"{v.size / 1e6:.1f}", str(sum(v.fused.values()))
        shown.add_row(
            mark,
            v.name,
            v.precision,
            size,
            fused,
            *cosines,
            *((f"{speed:,.0f}", f"{speed / plain:.2f}x") if speed else ("-", "-")),
        )
    return shown


def fused(bundle: Bundle) -> list[str]:
    """A line a variant with what was fused or quantised in it, and one for each level that buys nothing."""
    lines = []
    for v in bundle.manifest.variants:
        if v.fused:
            counts = ", ".join(f"{name} {count}" for name, count in v.fused.items())
            lines.append(f"{v.name} has: {counts}")
    return [*lines, *levels.idle(bundle.manifest.variants, bundle.manifest.choice.tokens_per_second).values()]


def notes(bundle: Bundle) -> list[str]:
    """What was done to the checkpoint on the way: an adapter merged, code run, something left out."""
    source, lines = bundle.manifest.source, []
    if source.merge:
        lines.append(f"adapter merged: cosine to the unmerged {source.merge.minimum:.7f} or more")
    if source.code_sha256:
        lines.append(f"the checkpoint's own code ran, as you allowed: {source.code_sha256}")
    if source.left_out:
        lines.append(f"left out, it gives no vectors: {', '.join(source.left_out)}")
    return lines


def quality_table(quality: Quality) -> Table:
    """The checkpoint and the exported variants, side by side."""
    shown = Table(
        box=SIMPLE, caption=f"{quality.dataset}: {quality.queries} queries, {quality.documents} documents, exact search"
    )
    for heading in ("", *_METRICS):
        shown.add_column(heading, justify="right" if heading else "left")
    for row in quality.measured:
        shown.add_row(row.variant, *(f"{row.metrics[metric]:.4f}" for metric in _METRICS))
    return shown


def as_json(bundle: Bundle, seconds: dict[str, float]) -> str:
    """The result as one line: the manifest without its list of files, the folder, and what each step took."""
    manifest: dict[str, Any] = msgspec.to_builtins(bundle.manifest)
    del manifest["files"]
    result = {"bundle": str(Path(bundle.folder)), **manifest, "seconds": {k: round(v, 3) for k, v in seconds.items()}}
    return msgspec.json.encode(result).decode()
