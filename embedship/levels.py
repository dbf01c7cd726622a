"""Optimisation levels that buy nothing: said in the report, and never chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from embedship.bundle import Precision, Quantisation, Runtime, Variant

# Less than this is within the noise of two runs of the same file on a shared machine.
WORTH = 1.03


def idle(variants: Sequence[Variant], tokens_per_second: Mapping[str, float]) -> dict[str, str]:
    """Name -> a sentence, for each level of the plain graph, variants[0], that is not WORTH times as fast as it.

    Precision and quantisation are no levels; a variant without a measured speed is not judged.
    """
    plain, *others = variants
    if plain.name not in tokens_per_second:
        return {}
    speed = tokens_per_second[plain.name]
    ratios = ((v, tokens_per_second[v.name] / speed) for v in others if _is_level(v) and v.name in tokens_per_second)
    return {v.name: _sentence(v, plain, ratio) for v, ratio in ratios if ratio < WORTH}


def _is_level(variant: Variant) -> bool:
    return (variant.runtime, variant.weights, variant.quantisation) == (
        Runtime.ONNXRUNTIME,
        Precision.FLOAT32,
        Quantisation.NONE,
    )


def _sentence(variant: Variant, plain: Variant, ratio: float) -> str:
    fused = f"fuses {sum(variant.fused.values())} operators" if variant.fused else "fuses nothing"
    return f"{variant.name} {fused} and gains nothing here ({ratio:.2f}x of {plain.name}): it is not chosen"
