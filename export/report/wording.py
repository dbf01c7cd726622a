"""Sentences and number formats of report.html. A figure that was not measured is called "not measured"."""

from __future__ import annotations

from typing import NamedTuple

from embedship.bundle import (
    BundleManifest,
    LeftOut,
    Objective,
    Quantisation,
    RetrievalReport,
    RetrievalResult,
    Runtime,
    Variant,
    VectorCode,
)
from embedship.export.variants.recipes import PLAIN
from embedship.golden_texts import ALONE_FLOOR

UNMEASURED = "not measured"
_BEST = {
    Objective.THROUGHPUT: "the fastest",
    Objective.LATENCY: "the quickest with one short text",
    Objective.SIZE: "the smallest",
}
_RUNTIMES = {Runtime.ONNXRUNTIME: "ONNX Runtime", Runtime.OPENVINO: "OpenVINO"}


class SummaryTile(NamedTuple):
    """One figure of the summary, with the data it was measured on."""

    title: str
    value: str
    note: str


def count(number: float) -> str:
    return f"{number:,.0f}"


def cosine(value: float | None) -> str:
    """Format a cosine. None means that the figure does not apply to the model."""
    if value is None:
        return "does not apply"
    return f"{value:.5f}" if value == value else "not a number"


def megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms"


def code(row: RetrievalResult) -> str:
    return f"{row.code}, rescored" if row.rescored else str(row.code)


def runtime(variant: Variant) -> str:
    return _RUNTIMES[variant.runtime]


def chosen(manifest: BundleManifest) -> Variant:
    return next(v for v in manifest.variants if v.name == manifest.choice.variant)


def plain_rows(quality: RetrievalReport) -> dict[str, RetrievalResult]:
    """Return the row in float32 at the largest dimension, by variant and for "checkpoint"."""
    rows = sorted((row for row in quality.measured if row.code is VectorCode.FLOAT32), key=lambda row: row.dimension)
    return {row.variant: row for row in rows}


def verdict(manifest: BundleManifest) -> list[str]:
    """Return sentences that say what was exported, which variant `serve` uses and why, and what that costs."""
    variant = chosen(manifest)
    sentences = [
        _export_sentence(manifest),
        _choice_sentence(manifest, variant),
        _cosine_sentence(variant),
        recall(manifest),
        _batch_sentence(variant),
    ]
    return sentences + [_left_out_sentence(failure) for failure in manifest.failed]


def summary_tiles(manifest: BundleManifest) -> list[SummaryTile]:
    variant, choice = chosen(manifest), manifest.choice
    speed = choice.tokens_per_second.get(variant.name)
    parity = variant.parity
    return [
        SummaryTile("serve uses", variant.name, f"{runtime(variant)}, {variant.precision}, {megabytes(variant.size)}"),
        SummaryTile(
            "throughput",
            UNMEASURED if speed is None else f"{count(speed)} tokens/s",
            f"{_ratio(manifest, variant)} on {choice.machine.cores:g} cores",
        ),
        SummaryTile(
            "mean cosine to the checkpoint",
            cosine(parity.mean),
            f"worst {cosine(parity.minimum)}, n = {parity.texts} texts",
        ),
        _recall_tile(manifest, variant),
    ]


def recall(manifest: BundleManifest) -> str:
    """Return how much of the checkpoint's recall@10 the chosen variant keeps."""
    quality, name = manifest.quality, manifest.choice.variant
    if quality is None:
        return "Retrieval quality was not measured, because no questions were given (--eval DIR)."
    rows = plain_rows(quality)
    setting = f"On {quality.dataset} ({quality.queries:,} queries, {quality.documents:,} documents, exact search)"
    if name not in rows or "checkpoint" not in rows:
        return f"{setting} {name} was not compared with the checkpoint."
    variant_recall, checkpoint_recall = (rows[row].metrics["recall@10"] for row in (name, "checkpoint"))
    share = f"{variant_recall / checkpoint_recall:.1%} of " if checkpoint_recall else "compared with "
    return f"{setting} recall@10 is {variant_recall:.4f}, {share}the checkpoint's {checkpoint_recall:.4f}."


def _export_sentence(manifest: BundleManifest) -> str:
    variants = manifest.variants
    if len(variants) == 1:
        return f"{manifest.source.name} was exported as {variants[0].name}, which passed its gate."
    return f"{manifest.source.name} was exported in {len(variants)} variants, and each passed its gate."


def _left_out_sentence(failure: LeftOut) -> str:
    return f"{failure.name} was left out of the bundle, because it failed ({failure.stage}): {failure.reason}."


def _choice_sentence(manifest: BundleManifest, variant: Variant) -> str:
    """Return the reason for the choice, derived from the figures. A recall budget may exclude a faster variant."""
    ranked, objective = _ranked(manifest), manifest.choice.objective
    if len(manifest.variants) == 1:
        reason = "the only one"
    elif ties := manifest.choice.alike:
        reason = f"the most exact of those that the measurement does not tell apart ({', '.join(ties)})"
    elif ranked and min(ranked, key=lambda name: ranked[name]) == variant.name:
        reason = f"{_BEST[objective]} of the {len(ranked)} on this machine"
    else:
        reason = (
            f"chosen for {objective}, because better variants gained under 3%, depend on their batch, or lost recall"
        )
    return (
        f"Serve uses {variant.name} ({runtime(variant)}, {variant.precision}): {reason}, {_reached(manifest, variant)}."
    )


def _ranked(manifest: BundleManifest) -> dict[str, float]:
    """Return the figure of the objective by variant; smaller is better."""
    choice = manifest.choice
    match choice.objective:
        case Objective.THROUGHPUT:
            return {name: -speed for name, speed in choice.tokens_per_second.items()}
        case Objective.LATENCY:
            return choice.latency_seconds
        case Objective.SIZE:
            return {v.name: v.size for v in manifest.variants}


def _reached(manifest: BundleManifest, variant: Variant) -> str:
    choice = manifest.choice
    if choice.objective is Objective.SIZE:
        return megabytes(variant.size)
    if choice.objective is Objective.LATENCY:
        seconds = choice.latency_seconds.get(variant.name)
        return UNMEASURED if seconds is None else f"{milliseconds(seconds)} per text"
    speed = choice.tokens_per_second.get(variant.name)
    return UNMEASURED if speed is None else f"{count(speed)} tokens/s, {_ratio(manifest, variant)}"


def _ratio(manifest: BundleManifest, variant: Variant) -> str:
    speeds = manifest.choice.tokens_per_second
    if variant.name not in speeds or not speeds.get(PLAIN):
        return f"ratio to plain ONNX {UNMEASURED}"
    return f"{speeds[variant.name] / speeds[PLAIN]:.2f} times plain ONNX"


def _cosine_sentence(variant: Variant) -> str:
    parity = variant.parity
    figures = f"mean {cosine(parity.mean)}, worst {cosine(parity.minimum)}, over {parity.texts} texts"
    loss = 1 - parity.mean
    loss = "less than 0.000005" if loss < 5e-6 else f"{loss:.2g}"
    return f"Compared with the checkpoint's own vectors, its vectors lose {loss} of cosine: {figures}."


def _batch_sentence(variant: Variant) -> str:
    invariance = variant.invariance
    if not invariance.texts:
        return "Whether a text's vector depends on the texts it is batched with was not measured."
    figures = f"worst cosine {cosine(invariance.worst)}, {invariance.texts} texts alone and in batches"
    if variant.quantisation is Quantisation.DYNAMIC or not invariance.worst >= ALONE_FLOOR:
        return f"A text's vector depends on the texts it is batched with: {figures}."
    return f"A text's vector does not depend on the texts it is batched with: {figures}."


def _recall_tile(manifest: BundleManifest, variant: Variant) -> SummaryTile:
    title = "recall@10 kept"
    quality = manifest.quality
    rows = plain_rows(quality) if quality else {}
    if quality is None or variant.name not in rows or "checkpoint" not in rows:
        return SummaryTile(title, UNMEASURED, "needs --eval DIR")
    variant_recall, checkpoint_recall = (rows[row].metrics["recall@10"] for row in (variant.name, "checkpoint"))
    share = f"{variant_recall / checkpoint_recall:.1%}" if checkpoint_recall else UNMEASURED
    return SummaryTile(
        title, share, f"{variant_recall:.4f} of {checkpoint_recall:.4f}, n = {quality.queries:,} queries"
    )
