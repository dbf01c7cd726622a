"""Dry run of an export: opens and checks all inputs, and reports what an export would write. It writes nothing."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import msgspec
from rich.box import SIMPLE
from rich.table import Table

from embedship.bundle import (
    GOLDEN,
    MANIFEST,
    REFERENCE,
    REPORT_HTML,
    REPORT_JSON,
    SIGNATURE,
    TOKENIZER,
    Precision,
    Runtime,
    Task,
    fingerprint,
)  # fmt: skip
from embedship.errors import EmbedshipError
from embedship.export import output_folder
from embedship.export.checkpoint import layout
from embedship.export.checkpoint.protocol import SourceModel
from embedship.export.inputs import ExportInputs, prepare_export
from embedship.export.options import ExportOptions
from embedship.export.report.sbom import SBOM
from embedship.export.steps import StepTimer
from embedship.export.variants.recipes import VariantRecipe
from embedship.files import sealed
from embedship.files.sealed import sha256_of

_BYTES = {Precision.FLOAT32: 4, Precision.FLOAT16: 2, Precision.BFLOAT16: 2, Precision.INT8: 1}


class PlannedVariant(msgspec.Struct, frozen=True):
    """A variant that would be built. `bytes` is the approximate size of its weights."""

    name: str
    path: str
    weights: Precision
    bytes: int


class DryRun(msgspec.Struct, frozen=True):
    """The plan of an export. `fingerprint` is the one that the bundle will have."""

    bundle: str
    name: str
    fingerprint: str
    variants: tuple[PlannedVariant, ...]
    files: tuple[str, ...]  # files of the bundle; a graph over 2 GB gets one more file with its weights
    bytes: int
    texts: int
    queries: int
    evaluation: str | None
    signed: bool


def plan(checkpoint: Path | str, out: Path, options: ExportOptions, steps: StepTimer) -> DryRun:
    """Return the plan. Raise the errors that an export would raise before its slow part."""
    output_folder.refuse_occupied(out, options.force)
    with prepare_export(checkpoint, options, steps) as inputs:
        return _plan(inputs, out, options.truncate_dim)


def _plan(inputs: ExportInputs, out: Path, truncate_dim: int | None) -> DryRun:
    variants = tuple(_plan_variant(name, recipe, inputs.checkpoint) for name, recipe in inputs.recipes.items())
    size = sum(variant.bytes for variant in variants)
    _require_disk_space(out, size)
    files, model = _copied_files(inputs, truncate_dim)
    files |= {path for variant in variants for path in _paths(variant.path)}
    files |= {MANIFEST, GOLDEN, SBOM}
    files |= {REPORT_HTML, REPORT_JSON} if inputs.checkpoint.pipeline.task is Task.EMBED else set()
    files |= {REFERENCE} if inputs.texts.queries else set()
    files |= {SIGNATURE} if inputs.signer else set()
    evaluation = inputs.texts.evaluation
    return DryRun(
        bundle=str(out),
        name=inputs.checkpoint.source.name,
        fingerprint=model,
        variants=variants,
        files=tuple(sorted(files)),
        bytes=size,
        texts=len(inputs.texts.real),
        queries=len(inputs.texts.queries or ()),
        evaluation=evaluation.name if evaluation else None,
        signed=inputs.signer is not None,
    )


def _plan_variant(name: str, recipe: VariantRecipe, checkpoint: SourceModel) -> PlannedVariant:
    """Estimate the size. In int8 graphs ONNX Runtime keeps the embedding table in float32; OpenVINO does not."""
    total = sum(weight.numel() for weight in checkpoint.model.parameters())
    table = checkpoint.transformer.get_input_embeddings().weight.numel()
    wide = table if recipe.weights is Precision.INT8 and recipe.runtime is Runtime.ONNXRUNTIME else 0
    return PlannedVariant(name, recipe.path, recipe.weights, 4 * wide + _BYTES[recipe.weights] * (total - wide))


def _paths(graph: str) -> set[str]:
    path = Path(graph)
    return {graph, path.with_suffix(".bin").as_posix()} if path.suffix == ".xml" else {graph}


def _copied_files(inputs: ExportInputs, truncate_dim: int | None) -> tuple[set[str], str]:
    """Return the files that would be copied, and the fingerprint. Small files are written to a temporary folder."""
    with tempfile.TemporaryDirectory() as name:
        folder, checkpoint = Path(name), inputs.checkpoint
        layout.copy(checkpoint.folder, folder, checkpoint.tokenizer_json, truncate_dim)
        model = fingerprint(checkpoint.source, checkpoint.pipeline, sha256_of(folder / TOKENIZER))
        return set(sealed.list_files(folder)), model


def _require_disk_space(out: Path, size: int) -> None:
    place = next(folder for folder in out.resolve().parents if folder.exists())
    if (free := shutil.disk_usage(place).free) < size:
        raise EmbedshipError(
            f"{out} needs about {size / 1e6:,.0f} MB and {place} has {free / 1e6:,.0f} MB left: free some space, "
            "name another --out, or name fewer --variants"
        )


def table(planned: DryRun) -> Table:
    """Return the plan as a table for the terminal."""
    shown = Table(
        box=SIMPLE,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        caption=f"{planned.name}, fingerprint {planned.fingerprint[:12]}; nothing was written",
    )
    for heading in ("variant", "weights", "about MB", "file"):
        shown.add_column(heading, justify="right" if heading == "about MB" else "left")
    for variant in planned.variants:
        shown.add_row(variant.name, variant.weights, f"{variant.bytes / 1e6:,.1f}", variant.path)
    return shown
