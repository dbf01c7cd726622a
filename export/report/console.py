"""Terminal output of an export: a table for people, or JSON for machines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.box import SIMPLE
from rich.table import Table

from embedship import shapes, variant_choice
from embedship.bundle import (
    Bundle,
    ModelSource,
    Quantisation,
    RetrievalReport,
    RetrievalResult,
    Runtime,
    Task,
    Variant,
    VariantChoice,
)
from embedship.export.probe_texts import LONGEST
from embedship.likeness import measure_name

_METRICS = {
    "recall@10": "rec@10",
    "ndcg@10": "ndcg@10",
    "mrr@10": "mrr@10",
    "map@100": "map@100",
    "accuracy@1": "acc@1",
}


# likeness.py says what likeness is.
_COSINES = {Task.EMBED: ("cos min", "cos mean"), Task.RERANK: ("like min", "like mean")}


def table(bundle: Bundle) -> Table:
    """Return one row per variant: operators, cosines, speed relative to plain ONNX; * marks the variant of `serve`."""
    chosen = bundle.manifest.choice
    plain = chosen.tokens_per_second[bundle.plain.name]
    shown = Table(
        box=SIMPLE,
        pad_edge=False,
        padding=(0, 1, 0, 0),  # the table fits into 80 columns
        caption=f"* is what serve uses on: {chosen.machine.cpu}, {chosen.machine.cores:g} cores",
    )
    for heading in ("", "variant", "runs as", "MB", "fused", *_COSINES[bundle.task], "tokens/s", "ratio", "spread"):
        shown.add_column(heading, justify="left" if heading in ("", "variant", "runs as") else "right", no_wrap=True)
    for v in bundle.manifest.variants:
        speed = chosen.tokens_per_second.get(v.name)  # missing if this machine cannot serve it
        measured = (f"{speed:,.0f}", f"{speed / plain:.2f}x", _spread(chosen, v.name)) if speed else ("-", "-", "-")
        cosines = (f"{v.parity.minimum:.5f}", f"{v.parity.mean:.5f}")
        mark = "*" if v.name == chosen.variant else ""
        size, fused = f"{v.size / 1e6:.1f}", str(sum(v.fused.values()))
        shown.add_row(mark, v.name, v.precision, size, fused, *cosines, *measured)
    for failure in bundle.manifest.failed:
        shown.add_row("", failure.name, "left out")
    return shown


def _spread(chosen: VariantChoice, name: str) -> str:
    """Return the spread of a variant's speed over its rounds; empty for bundles of earlier versions."""
    return f"{chosen.spread[name]:.0%}" if name in chosen.spread else "-"


def left_out(bundle: Bundle) -> list[str]:
    """Return one line per variant that failed, with the stage and the reason."""
    return [
        f"{failure.name} is left out, it failed ({failure.stage}): {failure.reason}"
        for failure in bundle.manifest.failed
    ]


def _short(v: Variant) -> list[str]:
    parity = v.parity
    if parity.short_minimum is None:
        return []
    return [
        f"{v.name}: cosine of {parity.short_texts} short texts (1 to 8 tokens) {parity.short_minimum:.5f} at worst, "
        f"{parity.short_mean:.5f} on average"
    ]


def _noise(chosen: VariantChoice) -> list[str]:
    """Return the reasons why the measured speeds may be inaccurate."""
    lines = []
    if chosen.alike:
        lines.append(
            f"{', '.join(chosen.alike)} cannot be told apart from {chosen.variant} in {chosen.objective}: the more "
            "exact one is chosen"
        )
    if chosen.busy:
        lines.append(
            "other programs used this machine meanwhile: the speeds are too low, and CPU time decided. Measure again "
            "with `embedship tune`"
        )
    return lines


def fused(bundle: Bundle) -> list[str]:
    """Return one line per variant with its fused and quantised operators."""
    counted = {v.name: ", ".join(f"{name} {n}" for name, n in v.fused.items()) for v in bundle.manifest.variants}
    return [f"{name} has: {counts}" for name, counts in counted.items() if counts]


def source(source: ModelSource) -> list[str]:
    """Return what was done to the checkpoint: an adapter merged, code run, files left out."""
    lines = []
    if source.merge:
        lines.append(f"adapter merged: cosine to the unmerged {source.merge.minimum:.7f} or more")
    if source.code_sha256:
        lines.append(f"the checkpoint's own code ran, as you allowed: {source.code_sha256}")
    if source.left_out:
        lines.append(f"left out, it gives no vectors: {', '.join(source.left_out)}")
    return lines


def notes(bundle: Bundle) -> list[str]:
    """Return notes on figures that the table does not show."""
    manifest = bundle.manifest
    pipeline, codes = manifest.pipeline, manifest.codes
    lines = [_batch_dependence(v, bundle.task) for v in manifest.variants]
    lines += [
        f"{v.name}: {shapes.describe_certificate(v.shapes)}, {v.shapes.seconds:.1f} s"
        for v in manifest.variants
        if v.shapes
    ]
    if bundle.task is Task.RERANK:
        lines += [f"{v.name}: {v.parity.overlap:.4f} of passages in the checkpoint's order" for v in manifest.variants]
    lines += [line for v in manifest.variants[1:] for line in _short(v)]
    lines += [note for v in manifest.variants[1:] for note in _passed_over(bundle, v)]
    lines += _noise(manifest.choice)
    if pipeline.max_tokens > LONGEST:
        longest = bundle.plain.parity.longest
        lines.append(f"the model reads {pipeline.max_tokens:,} tokens; texts up to {longest:,} were compared")
    if codes.rescored_recall is not None:
        lines.append(
            f"sign bits with {codes.rescore} candidates per hit, ranked by int8: {codes.rescored_recall:.4f} of the 10 "
            f"exact nearest among {codes.documents:,} texts"
        )
    return lines


def _passed_over(bundle: Bundle, v: Variant) -> list[str]:
    """Return why a variant cannot be chosen for `serve`."""
    chosen, quality, plain = bundle.manifest.choice, bundle.manifest.quality, bundle.plain.name
    if v.name not in chosen.tokens_per_second:
        return [f"{v.name} is for {' or '.join(v.needs)}: its speed was not measured here, and it is not chosen"]
    speeds = variant_choice.VariantSpeeds.from_choice(chosen)
    ratio = variant_choice.gain(v, bundle.plain, chosen.objective, speeds)
    effect = f"fuses {sum(v.fused.values())} operators and" if v.fused else "fuses nothing and"
    effect = f"{effect} gains" if v.quantisation is Quantisation.NONE and v.runtime is Runtime.ONNXRUNTIME else "gains"
    reasons = {
        f"{v.name} {effect} nothing in {chosen.objective} ({ratio:.2f}x {plain}): not chosen": ratio
        < variant_choice.GAIN,
        f"{v.name} loses more recall@10 than --max-recall-drop: not chosen": not variant_choice.within_recall_budget(
            quality, v.name
        ),
        f"{v.name} is used only if named with --variant": v.quantisation is Quantisation.DYNAMIC,
    }
    return [reason for reason, applies in reasons.items() if applies]


def _batch_dependence(v: Variant, task: Task) -> str:
    label = "depends on its batch" if v.quantisation is Quantisation.DYNAMIC else "does not depend on its batch"
    output = "a text's vector" if task is Task.EMBED else "a pair's score"
    report = v.invariance
    return f"{v.name}: {output} {label}, worst {measure_name(task)} {report.worst:.6f} over {report.texts} texts"


def quality_table(quality: RetrievalReport) -> Table:
    """Return retrieval figures of the checkpoint and all variants, then of dimensions and codes."""
    data = f"{quality.dataset}: {quality.queries:,} queries, {quality.documents:,} documents, exact search"
    return rows_table(quality.measured, data)


def rows_table(measured: Sequence[RetrievalResult], caption: str) -> Table:
    """Return one row per measurement. accuracy@k is the hit rate."""
    shown = Table(box=SIMPLE, pad_edge=False, padding=(0, 1, 0, 0), caption=f"{caption}; accuracy is the hit rate")
    for heading in ("variant", "code"):
        shown.add_column(heading)
    for heading in ("dim", "bytes", *_METRICS.values()):
        shown.add_column(heading, justify="right")
    for row in measured:
        code = f"{row.code}+int8" if row.rescored else row.code
        figures = (f"{row.metrics[metric]:.4f}" for metric in _METRICS)
        shown.add_row(row.variant, code, str(row.dimension), f"{row.bytes_per_vector:,}", *figures)
    return shown


def as_json(bundle: Bundle, seconds: dict[str, float]) -> str:
    """Return one line of JSON: the manifest without its file list, the folder, and the seconds of each step."""
    manifest: dict[str, Any] = msgspec.to_builtins(bundle.manifest)
    del manifest["files"]
    manifest["left_out"] = msgspec.to_builtins(bundle.manifest.failed)
    result = {"bundle": str(Path(bundle.folder)), **manifest, "seconds": {k: round(v, 3) for k, v in seconds.items()}}
    return msgspec.json.encode(result).decode()
