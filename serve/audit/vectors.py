"""Judges the vectors of single texts: model, pooling, prompt, normalisation, precision, changes to the text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from embedship.bundle import Precision, Similarity
from embedship.codes import Vectors, cosine, truncate_dimensions
from embedship.serve.audit.recipes import TEXT_CHANGES, EncodingRecipe, differences, wrong_recipes
from embedship.serve.audit.reference import ReferenceModel
from embedship.serve.audit.report import FaultKind, ServerFault
from embedship.serve.audit.tolerance import Tolerance

_UNIT_LENGTH = 0.01  # allowed difference of a normalised vector's length from 1
_BETTER = 3.0  # a wrong recipe replaces the right one if `noise` is this many times smaller with it
_RELATED = 0.9  # above this median cosine, vectors may be those of this model, computed inexactly
_SHOWN = 60  # number of characters of a text in a message


@dataclass(frozen=True, slots=True)
class RecipeResult:
    """The recipe that the server uses (None: not known), its tolerance, and what is wrong with this recipe."""

    recipe: EncodingRecipe | None
    tolerance: Tolerance
    faults: tuple[ServerFault, ...] = ()


def find_recipe(
    reference: ReferenceModel, expected: EncodingRecipe, required: Precision, texts: Sequence[str], rows: Vectors
) -> RecipeResult:
    """Find how the server made its (n, dim) vectors of ordinary texts."""
    manifest = reference.bundle.manifest

    def measure(recipe: EncodingRecipe) -> tuple[Tolerance, float]:
        cosines = _cosines(reference.vectors(texts, recipe), rows)
        return Tolerance.measure(manifest, required, cosines), float(np.median(cosines))

    own, median = measure(expected)
    if own.fits and own.precision is not Precision.INT8:
        return RecipeResult(expected, own)
    best, tolerance, found = expected, own, median
    for recipe in _candidates(reference, expected, texts):
        other, value = measure(recipe)
        if other.noise < tolerance.noise:
            best, tolerance, found = recipe, other, value
        if other.precision not in (None, Precision.INT8):
            break
    if tolerance.precision is not None and tolerance.noise * _BETTER <= own.noise:
        evidence = f"{len(texts)} ordinary texts: median cosine {median:.4f} to the right vectors, {found:.4f} to these"
        return RecipeResult(best, tolerance, _recipe_faults(reference, expected, best, evidence))
    if own.fits:
        return RecipeResult(expected, own)
    return RecipeResult(None if own.precision is None else expected, own, (_other_model(own, median, texts),))


def _candidates(reference: ReferenceModel, expected: EncodingRecipe, texts: Sequence[str]) -> Iterator[EncodingRecipe]:
    """Yield the wrong recipes. Those with poolings are last, because they need token vectors, which take time."""
    yield from (first := wrong_recipes(reference.model, expected, ()))
    others = wrong_recipes(reference.model, expected, reference.poolings(texts, expected))
    yield from (recipe for recipe in others if recipe not in first)


def _recipe_faults(
    reference: ReferenceModel, expected: EncodingRecipe, recipe: EncodingRecipe, evidence: str
) -> tuple[ServerFault, ...]:
    found = differences(reference.model, expected, recipe)
    return tuple(ServerFault(kind, f"the server {sentence}", (evidence,)) for kind, sentence in found)


def _other_model(own: Tolerance, median: float, texts: Sequence[str]) -> ServerFault:
    evidence = (f"{len(texts)} ordinary texts: median cosine {median:.4f} to the vectors of the model",)
    if own.precision is not None or median >= _RELATED:
        known = "" if own.precision is None else f", only as exact as {own.precision}"
        return ServerFault(
            FaultKind.PRECISION, f"the vectors are those of this model, but not exact enough{known}", evidence
        )
    return ServerFault(
        FaultKind.MODEL,
        "the vectors are those of another model or of other weights: no known pooling, prompt or tokenisation of this "
        "model explains them",
        evidence,
    )


def judge_dimensions(
    reference: ReferenceModel, expected: EncodingRecipe, texts: Sequence[str], rows: Vectors
) -> ServerFault | None:
    """Return a fault if the (n, dim) vectors have another number of dimensions than the model's."""
    own, given = reference.model.dimension, rows.shape[1]
    if given == own:
        return None
    message = f"the vectors have {given:,} dimensions, and those of the model have {own:,}"
    evidence = "they are not a part of the model's vectors: this is another model"
    whole = reference.vectors(texts, expected)
    if given < own and float(np.median(_cosines(truncate_dimensions(whole, given), rows))) > _RELATED:
        evidence = f"they are the first {given:,} components of the model's vectors"
    for pooling in reference.poolings(texts, expected):
        pooled = reference.vectors(texts, replace(expected, pooling=pooling))
        if pooled.shape == rows.shape and float(np.median(_cosines(pooled, rows))) > _RELATED:
            evidence = f"they are pooled token vectors ({pooling}): the layers after the pooling are missing"
    return ServerFault(FaultKind.DIMENSIONS, message, (evidence,))


def judge_norms(
    reference: ReferenceModel, expected: EncodingRecipe, texts: Sequence[str], rows: Vectors
) -> list[ServerFault]:
    """Return a fault if the lengths of vectors differ from the model's and this changes what clients compute."""
    own, given = (np.linalg.norm(each, axis=1) for each in (reference.vectors(texts, expected), rows))
    evidence = (
        f"lengths {given.min():.4f} to {given.max():.4f}; those of the model: {own.min():.4f} to {own.max():.4f}",
    )
    unit = bool(np.abs(given - 1).max() <= _UNIT_LENGTH)
    if reference.model.normalised and not unit:
        return [ServerFault(FaultKind.NORMALISATION, "the server does not normalise the vectors", evidence)]
    # A cosine ignores lengths, so normalised vectors are right if the model's similarity is the cosine.
    if reference.model.normalised or (unit and reference.model.similarity is Similarity.COSINE):
        return []
    if bool((np.abs(given / own - 1) <= _UNIT_LENGTH).all()):
        return []
    what = "normalises vectors whose length matters to the model" if unit else "scales the vectors"
    return [ServerFault(FaultKind.NORMALISATION, f"the server {what}", evidence)]


def name_number_format(rows: Vectors) -> str | None:
    """Return the smallest number format that represents all numbers of the vectors; None: they need float32."""
    with np.errstate(over="ignore"):
        if bool((rows.astype(np.float16).astype(np.float32) == rows).all()):
            return "float16"
    if not (np.ascontiguousarray(rows, dtype=np.float32).view(np.uint32) & 0xFFFF).any():
        return "bfloat16"
    return None


def find_text_changes(
    reference: ReferenceModel, recipe: EncodingRecipe, tolerance: Tolerance, texts: Sequence[str], rows: Vectors
) -> dict[str, list[str]]:
    """Return the text changes that explain wrong vectors: name of the change -> texts."""
    right = _cosines(reference.vectors(texts, recipe), rows)
    found: dict[str, list[str]] = {}
    for place, text in enumerate(texts):
        for name, change in TEXT_CHANGES.items():
            if change(text) == text:
                continue
            changed = _cosines(reference.vectors([text], replace(recipe, change=name)), rows[place : place + 1])
            if tolerance.explains(right[place : place + 1], changed):
                found.setdefault(name, []).append(text)
                break
    return found


def shown(text: str) -> str:
    """Return a text as one short, printable line for a message."""
    return ascii(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!a}... ({len(text):,} characters)"


def _cosines(expected: Vectors, rows: Vectors) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return the cosines of (n, dim) rows; NaN for rows of other dimensions."""
    if expected.shape != rows.shape:
        return np.full(len(rows), np.nan)
    return cosine(expected, rows)
