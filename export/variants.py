"""The ways to run a model, and how each file is made from the float32 graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from embedship import hardware
from embedship.bundle import Precision, Quantisation, Runtime
from embedship.engine import feed
from embedship.errors import UsageError
from embedship.export import graph, onnx, probes
from embedship.export.checkpoint import Checkpoint
from embedship.plan import pad
from embedship.tokens import Tokenizer

PLAIN = "onnx"


class Recipe(NamedTuple):
    runtime: Runtime
    weights: Precision
    path: str
    quantisation: Quantisation = Quantisation.NONE
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Made:
    """A variant as a file: what it is, and how many fused or quantised operators it has."""

    name: str
    recipe: Recipe
    fused: dict[str, int]


def recipes() -> dict[str, Recipe]:
    """All variants by name, in the order they are made; the int8 file of ONNX Runtime is named for this machine."""
    ort, ov, fp32, int8 = Runtime.ONNXRUNTIME, Runtime.OPENVINO, Precision.FLOAT32, Precision.INT8
    return {
        PLAIN: Recipe(ort, fp32, onnx.FP32),
        "onnx-O3": Recipe(ort, fp32, onnx.O3),
        "onnx-int8": Recipe(ort, int8, onnx.int8_path(hardware.machine()), Quantisation.STATIC),
        "openvino": Recipe(ov, fp32, "openvino/openvino_model.xml"),
        "openvino-int8": Recipe(ov, int8, "openvino/openvino_model_qint8_quantized.xml", Quantisation.STATIC),
    }


def wanted(names: Sequence[str]) -> dict[str, Recipe]:
    """The named recipes (none named: all), and always `onnx`, from which the others are made.

    Raises UsageError for a name there is none of.
    """
    known = recipes()
    if unknown := [name for name in names if name not in known]:
        raise UsageError(f"there is no variant {unknown[0]!r}; there are: {', '.join(known)}")
    return {name: recipe for name, recipe in known.items() if not names or name in names or name == PLAIN}


def make(name: str, recipe: Recipe, folder: Path, checkpoint: Checkpoint, feeds: Sequence[onnx.Feed]) -> Made:
    """Write one variant below `folder`; all but `onnx` are made from it."""
    plain, target, config = folder / onnx.FP32, folder / recipe.path, checkpoint.model[0].model.config
    target.parent.mkdir(parents=True, exist_ok=True)
    return Made(name, recipe, _make(name, plain, target, checkpoint, config, feeds))


def _make(
    name: str, plain: Path, target: Path, checkpoint: Checkpoint, config: Any, feeds: Sequence[onnx.Feed]
) -> dict[str, int]:
    from embedship.export import openvino

    match name:
        case "onnx-O3":
            return onnx.optimise(plain, target, config)
        case "onnx-int8":
            return onnx.quantise(plain, target, config, feeds, hardware.machine())
        case "openvino":
            openvino.convert(plain, target)
        case "openvino-int8":
            return openvino.quantise(plain, target, feeds)
        case _:
            graph.write(checkpoint, target)
    return {}


def calibration(tokenizer: Tokenizer, checkpoint: Checkpoint, texts: Sequence[str]) -> list[onnx.Feed]:
    """Each text alone at its true length: the padding of a batch would be calibrated as if it were meaning.

    The hostile ones come first. Without them int8 never sees the extremes: on MiniLM "..." falls to cosine 0.88 by
    NNCF (0.98 with them), and 254 times one word to 0.965 by ONNX Runtime (0.997).
    """
    pipeline = checkpoint.pipeline
    hostile = probes.hostile(tokenizer, min(pipeline.max_tokens, probes.LONGEST))
    rows = [ids for ids in tokenizer([*hostile, *texts]).ids if 0 < len(ids) <= probes.LONGEST]
    return [feed(pad([ids], pipeline.pad_id), pipeline.inputs) for ids in rows]  # type: ignore[misc]
