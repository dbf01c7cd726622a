"""All variants by name, and how each file is built from the float32 graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from embedship.batches import pad
from embedship.bundle import ParityFloors, Precision, Quantisation, Runtime
from embedship.engine.inputs import feed
from embedship.errors import UsageError
from embedship.export import probe_pairs, probe_texts
from embedship.export.checkpoint import static_embedding
from embedship.export.checkpoint.protocol import SourceModel
from embedship.export.variants import onnx, targets
from embedship.export.variants.converter import GraphConverter
from embedship.export.variants.targets import HardwareTarget
from embedship.tokens import Text, Tokenizer

PLAIN, ALL, GPU = "onnx", "all", "onnx-O4"
# Default variants. O1 to O3 are left out on CPUs because they gain nothing (0.95x to 1.03x; see onnx.py). Decoders have
# outliers that static scales cannot represent, and reading weights dominates their time.
ENCODER = (PLAIN, "onnx-int8", "openvino", "openvino-int8")
DECODER = (PLAIN, "onnx-int8-weight", "openvino", "openvino-int8-weight")
# A static embedding has no products to quantise.
STATIC = (PLAIN, "openvino")
CUDA = (PLAIN, "onnx-O3", GPU)


class VariantRecipe(NamedTuple):
    runtime: Runtime
    weights: Precision
    path: str
    quantisation: Quantisation = Quantisation.NONE
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BuiltVariant:
    """A variant that has been built, and the number of its fused or quantised operators."""

    name: str
    recipe: VariantRecipe
    fused: dict[str, int]


@dataclass(frozen=True, slots=True)
class BuildContext:
    """Inputs of all builders. `isa`: the instruction set of int8 files; `floors`: the floors of int8."""

    folder: Path
    checkpoint: SourceModel
    feeds: Sequence[onnx.Feed]
    isa: HardwareTarget
    floors: ParityFloors
    converter: GraphConverter = GraphConverter.EMBEDSHIP


def all_recipes(isa: HardwareTarget) -> dict[str, VariantRecipe]:
    """Return all variants by name, in build order. `isa` is the instruction set that int8 files are made for.

    File names follow sentence-transformers and Optimum where they have one.
    """
    ort, ov, fp32, int8 = Runtime.ONNXRUNTIME, Runtime.OPENVINO, Precision.FLOAT32, Precision.INT8
    static, weight, dynamic = Quantisation.STATIC, Quantisation.WEIGHT_ONLY, Quantisation.DYNAMIC
    quantised = "openvino/openvino_model_qint8"
    return {
        PLAIN: VariantRecipe(ort, fp32, onnx.FP32),
        "onnx-O1": VariantRecipe(ort, fp32, "onnx/model_O1.onnx"),
        "onnx-O2": VariantRecipe(ort, fp32, "onnx/model_O2.onnx"),
        "onnx-O3": VariantRecipe(ort, fp32, "onnx/model_O3.onnx"),
        GPU: VariantRecipe(ort, Precision.FLOAT16, "onnx/model_O4.onnx", needs=targets.GPU),
        "onnx-int8": VariantRecipe(ort, int8, f"onnx/model_qint8_{isa}.onnx", static, isa.needs),
        "onnx-int8-weight": VariantRecipe(ort, int8, f"onnx/model_qint8_weight_{isa}.onnx", weight, isa.needs),
        "onnx-int8-dynamic": VariantRecipe(ort, int8, f"onnx/model_qint8_dynamic_{isa}.onnx", dynamic, isa.needs),
        "openvino": VariantRecipe(ov, fp32, "openvino/openvino_model.xml"),
        "openvino-int8": VariantRecipe(ov, int8, f"{quantised}_quantized.xml", static, isa.needs),
        "openvino-int8-accuracy": VariantRecipe(ov, int8, f"{quantised}_accuracy.xml", static, isa.needs),
        "openvino-int8-weight": VariantRecipe(ov, int8, f"{quantised}_weight.xml", weight),
    }


def available_recipes(target: HardwareTarget, isa: HardwareTarget) -> dict[str, VariantRecipe]:
    """Return the variants available for a target. float16 is for GPUs only; a CPU runs it through casts."""
    return {name: recipe for name, recipe in all_recipes(isa).items() if name != GPU or target is HardwareTarget.CUDA}


def require_known(names: Sequence[str], target: HardwareTarget, isa: HardwareTarget) -> None:
    """Raise UsageError for an unknown variant name. Called before anything slow begins."""
    known = available_recipes(target, isa)
    for name in names:
        if name == GPU and GPU not in known:
            raise UsageError(f"{GPU} is float16 for GPUs: add --target {HardwareTarget.CUDA}")
        if name not in (*known, ALL):
            raise UsageError(f"there is no variant {name!r}: use one of {', '.join(known)}, {ALL}")


def select_recipes(
    names: Sequence[str], target: HardwareTarget, isa: HardwareTarget, config: Any
) -> dict[str, VariantRecipe]:
    """Return the named recipes and `onnx`, from which the others are built. `config` is the transformer's config.

    Without names, return the defaults of the architecture. Raises UsageError for an unknown name.
    """
    require_known(names, target, isa)
    known = available_recipes(target, isa)
    chosen = {PLAIN, *(names or _default_names(target, config)), *(known if ALL in names else ())}
    return {name: recipe for name, recipe in known.items() if name in chosen}


def _default_names(target: HardwareTarget, config: Any) -> tuple[str, ...]:
    if target is HardwareTarget.CUDA:
        return CUDA
    if config.model_type == static_embedding.MODEL_TYPE:
        return STATIC
    return DECODER if _is_decoder(config) else ENCODER


def _is_decoder(config: Any) -> bool:
    """Return True for a causal language model that is not also a masked one (Qwen3, Mistral, Gemma)."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as MASKED

    return config.model_type in CAUSAL and config.model_type not in MASKED


def build_variant(name: str, recipe: VariantRecipe, context: BuildContext) -> BuiltVariant:
    """Write one variant into the folder of `context`. All except `onnx` are built from `onnx`."""
    target = context.folder / recipe.path
    target.parent.mkdir(parents=True, exist_ok=True)
    if name == PLAIN:
        context.converter.write(context.checkpoint, target)
        return BuiltVariant(name, recipe, {})
    source = context.folder / onnx.FP32
    match recipe.runtime:
        case Runtime.ONNXRUNTIME:
            return BuiltVariant(name, recipe, _make_onnx(name, source, target, context))
        case Runtime.OPENVINO:
            return BuiltVariant(name, recipe, _make_openvino(name, source, target, context))


def _make_onnx(name: str, source: Path, target: Path, context: BuildContext) -> dict[str, int]:
    config = context.checkpoint.transformer.config
    match name:
        case "onnx-O1":
            return onnx.basic(source, target, config)
        case "onnx-O2" | "onnx-O3":
            return onnx.optimise(source, target, config, gelu_approximation=name == "onnx-O3")
        case "onnx-O4":
            return onnx.convert_to_float16(source, target, config)
        case "onnx-int8-weight":
            return onnx.quantise_weights(source, target, config, context.isa)
        case "onnx-int8-dynamic":
            return onnx.quantise_dynamically(source, target, config, context.isa)
        case _:
            return onnx.quantise(source, target, config, context.feeds, context.isa)


def _make_openvino(name: str, source: Path, target: Path, context: BuildContext) -> dict[str, int]:
    from embedship.export.variants import openvino

    match name:
        case "openvino":
            openvino.convert(source, target)
            return {}
        case "openvino-int8-accuracy":
            return openvino.quantise_accurately(source, target, context.feeds, context.isa, context.floors)
        case "openvino-int8-weight":
            return openvino.quantise_weights(source, target)
        case _:
            return openvino.quantise(source, target, context.feeds, context.isa)


def calibration_feeds(tokenizer: Tokenizer, checkpoint: SourceModel, texts: Sequence[Text]) -> list[onnx.Feed]:
    """Return one feed per text at its true length, because padding would distort the calibration.

    Adversarial texts come first. Without them int8 never sees extreme values: on MiniLM the cosine of "..." falls to
    0.88 with NNCF (0.98 with them), and that of one word repeated 254 times to 0.965 with ONNX Runtime (0.997).
    """
    pipeline = checkpoint.pipeline
    tokens = tokenizer([*probe_pairs.adversarial_pairs(tokenizer, pipeline), *texts])
    rows = [row for row in map(tokens.row, range(len(tokens))) if 0 < row.lengths[0] <= probe_texts.LONGEST]
    batches = [pad(row.ids, pipeline.pad_id).with_turns(row.turns) for row in rows]
    return [feed(batch, pipeline.inputs) for batch in batches]  # type: ignore[misc]
