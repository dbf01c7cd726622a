"""Judges texts by their length: finds where the server truncates, and lengths with wrong vectors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from embedship.codes import Vectors, cosine
from embedship.serve.audit.recipes import EncodingRecipe, SpecialTokens
from embedship.serve.audit.reference import ReferenceModel
from embedship.serve.audit.report import FaultKind, ServerFault
from embedship.serve.audit.tolerance import Tolerance

# Lengths in tokens at which servers truncate by default.
_COMMON_LIMITS = (128, 256, 512, 384, 64, 1024, 2048)
_UNLIMITED = 1 << 30
_CONFIRMED = 3  # number of texts that a limit must explain


@dataclass(frozen=True, slots=True)
class LongTexts:
    """Texts whose vectors differ from the right ones, longest first, with their token counts and (n, dim) vectors."""

    texts: list[str]
    tokens: list[int]
    rows: Vectors


def find_truncation(
    reference: ReferenceModel,
    recipe: EncodingRecipe,
    tolerance: Tolerance,
    suspects: LongTexts,
    right: Sequence[int],
) -> EncodingRecipe | None:
    """Return the recipe with another truncation that explains the longest suspects. `right`: lengths without faults."""
    if not suspects.texts:
        return None
    for candidate in _candidates(reference, recipe, suspects, right):
        limit = min(candidate.limit or reference.model.max_tokens, reference.model.max_tokens)
        places = [place for place, count in enumerate(suspects.tokens) if count > limit]
        if places and all(
            _explained(reference, recipe, candidate, tolerance, suspects, place) for place in places[:_CONFIRMED]
        ):
            return candidate
    return None


def _candidates(
    reference: ReferenceModel, recipe: EncodingRecipe, suspects: LongTexts, right: Sequence[int]
) -> Iterator[EncodingRecipe]:
    most = reference.model.max_tokens
    yield replace(recipe, limit=most, from_left=True)
    yield replace(recipe, limit=most, special_tokens=SpecialTokens.NO_END)
    shortest = min(suspects.tokens)
    below = [count for count in right if count < shortest]
    between = range(max(below, default=1), shortest) if shortest <= most else range(0)
    for limit in dict.fromkeys([*_COMMON_LIMITS, *between, *(most + n for n in (-2, -1, 1, 2)), _UNLIMITED]):
        if limit != most:
            yield replace(recipe, limit=limit)
            yield replace(recipe, limit=limit, from_left=True)


def _explained(
    reference: ReferenceModel,
    recipe: EncodingRecipe,
    candidate: EncodingRecipe,
    tolerance: Tolerance,
    suspects: LongTexts,
    place: int,
) -> bool:
    text, row = [suspects.texts[place]], suspects.rows[place : place + 1]
    right, other = (cosine(reference.vectors(text, each), row) for each in (recipe, candidate))
    return tolerance.explains(right, other)


def describe_truncation(
    reference: ReferenceModel, recipe: EncodingRecipe, candidate: EncodingRecipe, suspects: LongTexts
) -> ServerFault:
    """Return the fault of a server that truncates like `candidate`."""
    most, limit = reference.model.max_tokens, candidate.limit
    if candidate.special_tokens is SpecialTokens.NO_END:
        message = f"the server {SpecialTokens.NO_END}"
    elif limit == most:
        message = "the server removes the beginning of texts that are too long, and the model removes the end"
    else:
        read = "all tokens" if limit == _UNLIMITED else f"{limit:,} tokens"
        side = " at the beginning" if candidate.from_left else ""
        verb = "reads" if limit is None or limit > most else "truncates texts" + side + " to"
        message = f"the server {verb} {read}, and the model reads {most:,}"
    text, row = suspects.texts[:1], suspects.rows[:1]
    right, other = (float(cosine(reference.vectors(text, each), row)[0]) for each in (recipe, candidate))
    evidence = (
        f"a text of {suspects.tokens[0]:,} tokens: cosine {right:.4f} to its vector if it is truncated like in the "
        f"model, {other:.4f} if it is truncated like this"
    )
    return ServerFault(FaultKind.TRUNCATION, message, (evidence,))


def describe_shapes(wrong: Mapping[int, float], several: Mapping[int, float]) -> ServerFault:
    """Return the fault. Token count -> lowest cosine: `wrong` for texts alone, `several` for texts in one request."""
    alone, together = (
        ", ".join(f"{tokens} tokens {cosines:.4f}" for tokens, cosines in sorted(each.items())[:12])
        for each in (wrong, several)
    )
    evidence = [f"texts alone, cosine to the right vector: {alone}"] if alone else []
    evidence += [f"3 texts of one length in a request, cosine to the same text alone: {together}"] if together else []
    counts = ", ".join(map(str, sorted({*wrong, *several})[:12]))
    return ServerFault(
        FaultKind.SHAPE, f"the server gives wrong vectors at some lengths only: {counts} tokens", tuple(evidence)
    )


def sort_suspects(texts: Sequence[str], tokens: Mapping[str, int], rows: Vectors) -> LongTexts:
    """Return the texts with their (n, dim) vectors, the longest text first."""
    order = sorted(range(len(texts)), key=lambda place: -tokens[texts[place]])
    ordered = [texts[place] for place in order]
    empty = np.empty((0, 0), dtype=np.float32)
    return LongTexts(ordered, [tokens[text] for text in ordered], rows[order] if order else empty)
