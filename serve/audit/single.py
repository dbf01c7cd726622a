"""Judges texts that were sent alone: finds the wrong vectors and explains them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embedship.codes import Vectors, cosine
from embedship.serve.audit import lengths, vectors
from embedship.serve.audit.answers import AuditAnswers
from embedship.serve.audit.recipes import EncodingRecipe
from embedship.serve.audit.reference import ReferenceModel
from embedship.serve.audit.report import CheckSummary, FaultKind, ServerFault
from embedship.serve.audit.texts import AuditTexts, count_tokens
from embedship.serve.audit.tolerance import Tolerance

_SHOWN_TEXTS = 3
_MOST_CONFIRMED = 8  # number of lengths that are confirmed with a second text


@dataclass(frozen=True, slots=True)
class SingleTexts:
    """Texts with a vector: (n, dim) vectors, token counts, and cosines to the vectors of a recipe, (n,) float64."""

    texts: list[str]
    rows: Vectors
    tokens: dict[str, int]
    cosines: npt.NDArray[np.float64]

    @classmethod
    def measure(
        cls, reference: ReferenceModel, recipe: EncodingRecipe, answers: AuditAnswers, texts: Iterable[str]
    ) -> SingleTexts:
        """Compare the vectors of texts with those of the recipe. Texts without a vector of either kind are left out.

        For example, a recipe without special tokens has no vector for an empty text.
        """
        answered, _ = answers.vectors(dict.fromkeys(texts))
        computed = [bool(np.isfinite(row).all()) for row in reference.vectors(answered, recipe)]
        known, rows = answers.vectors(text for text, each in zip(answered, computed, strict=True) if each)
        counts = count_tokens(reference.tokenizer, known, recipe.prompt)
        cosines = cosine(reference.vectors(known, recipe), rows) if known else np.empty(0)
        return cls(known, rows, dict(zip(known, counts, strict=True)), cosines)

    def below(self, floor: Callable[[int], float]) -> list[int]:
        """Return the indexes of texts whose cosine is below the floor for their token count."""
        pairs = zip(self.texts, self.cosines, strict=True)
        return [place for place, (text, value) in enumerate(pairs) if not value >= floor(self.tokens[text])]


@dataclass(frozen=True, slots=True)
class SingleVerdict:
    """Faults, the texts with wrong vectors, and the lengths with wrong vectors: token count -> lowest cosine."""

    faults: tuple[ServerFault, ...]
    wrong: frozenset[str]
    lengths: Mapping[int, float]


def summarise(
    reference: ReferenceModel,
    expected: EncodingRecipe,
    tolerance: Tolerance,
    texts: AuditTexts,
    answers: AuditAnswers,
) -> list[CheckSummary]:
    """Return a summary of each group of texts, compared with the right vectors."""
    groups = {
        "ordinary texts, alone": texts.ordinary,
        "unusual texts, alone": texts.unusual,
        f"{len(texts.lengths)} lengths, alone": [first for first, _ in texts.lengths.values()],
        "around the longest length": list(texts.edge.values()),
    }
    found: list[CheckSummary] = []
    for name, group in groups.items():
        if not group:
            continue
        single = SingleTexts.measure(reference, expected, answers, group)
        given = [answers.alone[text] for text in group]
        errors = sum(bool(each.error) and not each.rejected for each in given)
        found.append(
            CheckSummary.from_cosines(
                name,
                "the model",
                len(group),
                single.cosines,
                wrong=errors + len(single.below(tolerance.floor)),
                rejected=sum(each.rejected for each in given),
            )
        )
    return found


def judge_single(
    reference: ReferenceModel,
    recipe: EncodingRecipe,
    tolerance: Tolerance,
    texts: AuditTexts,
    answers: AuditAnswers,
    embed: Callable[[str], Vectors],
) -> SingleVerdict:
    """Explain vectors that differ from those of the recipe. `embed` requests the vector of one more text, (1, dim)."""
    by_length = {first: tokens for tokens, (first, _) in texts.lengths.items()}
    group = [*texts.ordinary, *texts.unusual, *by_length, *texts.edge.values()]
    single = SingleTexts.measure(reference, recipe, answers, group)
    suspects = single.below(lambda tokens: max(tolerance.floor(tokens), tolerance.conspicuous))
    names = [single.texts[place] for place in suspects]
    changes = vectors.find_text_changes(reference, recipe, tolerance, names, single.rows[suspects])
    faults = [
        ServerFault(FaultKind.TEXT, f"the server {name}", tuple(map(vectors.shown, changed[:_SHOWN_TEXTS])))
        for name, changed in changes.items()
    ]
    explained = {text for changed in changes.values() for text in changed}
    remaining = [place for place in suspects if single.texts[place] not in explained]
    long_texts = lengths.sort_suspects(
        [single.texts[place] for place in remaining], single.tokens, single.rows[remaining]
    )
    right = [tokens for text, tokens in by_length.items() if text in single.tokens and text not in long_texts.texts]
    truncation = lengths.find_truncation(reference, recipe, tolerance, long_texts, right)
    if truncation is not None:
        faults.append(lengths.describe_truncation(reference, recipe, truncation, long_texts))
        limit = min(truncation.limit or reference.model.max_tokens, reference.model.max_tokens)
        explained |= {text for text in long_texts.texts if single.tokens[text] > limit}
    wrong = single.below(tolerance.floor)
    unexplained = {
        single.texts[place]: float(single.cosines[place]) for place in wrong if single.texts[place] not in explained
    }
    shapes = _wrong_lengths(reference, recipe, tolerance, texts, unexplained, embed)
    if left := {text: value for text, value in unexplained.items() if single.tokens[text] not in shapes}:
        faults.append(_unexplained(left, len(single.texts)))
    return SingleVerdict(tuple(faults), frozenset(explained.union(single.texts[place] for place in wrong)), shapes)


def _wrong_lengths(
    reference: ReferenceModel,
    recipe: EncodingRecipe,
    tolerance: Tolerance,
    texts: AuditTexts,
    wrong: Mapping[str, float],
    embed: Callable[[str], Vectors],
) -> dict[int, float]:
    """Return the lengths at which two different texts are wrong: token count -> lowest cosine."""
    found: dict[int, float] = {}
    suspects = {tokens: pair for tokens, pair in texts.lengths.items() if pair[0] in wrong}
    for tokens, (first, second) in list(suspects.items())[:_MOST_CONFIRMED]:
        value = float(cosine(reference.vectors([second], recipe), embed(second))[0])
        if not value >= tolerance.floor(tokens):
            found[tokens] = min(wrong[first], value)
    if len(found) == _MOST_CONFIRMED:
        found |= {tokens: wrong[first] for tokens, (first, _) in suspects.items() if tokens not in found}
    return found


def _unexplained(wrong: Mapping[str, float], total: int) -> ServerFault:
    worst: Sequence[str] = sorted(wrong, key=lambda text: float(np.nan_to_num(wrong[text], nan=-2.0)))[:_SHOWN_TEXTS]
    evidence = tuple(f"cosine {wrong[text]:.4f} to the right vector: {vectors.shown(text)}" for text in worst)
    message = f"{len(wrong)} of {total} texts have wrong vectors when they are sent alone; the cause is not known"
    return ServerFault(FaultKind.TEXT, message, evidence)
