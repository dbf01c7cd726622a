"""Golden check: a variant must still give the vectors of the golden texts, alone and in batches, before it serves.

Golden texts are probes whose tokens and vectors (for a re-ranker, pairs and scores) were stored at export.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from embedship.bundle import Task
from embedship.encoder import Encoder
from embedship.errors import GateError
from embedship.golden_texts import GoldenTexts, batch_invariance_floor
from embedship.likeness import measure_name, similarity
from embedship.tokens import Text


@dataclass(frozen=True, slots=True)
class GoldenCheck:
    """Result of the golden check: the lowest and the mean cosine to the checkpoint.

    `alone` is the lowest cosine between the vector of a text alone and that of the same text in a batch. For scores,
    likenesses take the place of cosines (see likeness.py).
    """

    texts: int
    minimum: float
    mean: float
    alone: float


def check(encoder: Encoder) -> GoldenCheck:
    """Run the golden texts through the encoder, one at a time and in batches.

    Raises GateError if the token ids differ, or if a cosine of GoldenCheck is below its floor. The floors are those of
    the export, for the precision that runs here.
    """
    golden = GoldenTexts.load(encoder.bundle)
    tokens = encoder.tokenizer(golden.texts)
    for text, actual, expected in zip(golden.texts, tokens.ids, golden.ids, strict=True):
        if actual != expected:
            raise GateError(
                f"the tokenizer gives other ids than at export for {str(text)[:60]!r}: reinstall `tokenizers`"
            )
    together = encoder.encode_tokens(tokens)
    alone = np.concatenate([encoder.encode_tokens(tokens.row(index)) for index in range(len(tokens))])
    task = encoder.bundle.task
    parity, invariance = similarity(task, golden.vectors, together), similarity(task, alone, together)
    result = GoldenCheck(len(golden.texts), float(parity.min()), float(parity.mean()), float(invariance.min()))
    _judge(encoder, result, golden.texts[int(parity.argmin())])
    return result


def _judge(encoder: Encoder, result: GoldenCheck, worst: Text) -> None:
    precision, task = encoder.engine.precision, encoder.bundle.task
    answer = "vector" if task is Task.EMBED else "score"
    floors = encoder.bundle.manifest.floors[precision]
    # `not >=` instead of `<`, because a NaN must fail.
    if not (result.minimum >= floors.minimum and result.mean >= floors.mean):
        raise GateError(
            f"golden check failed at {precision}: {measure_name(task)} to the checkpoint is min {result.minimum:.5f}, "
            f"mean {result.mean:.5f}; the bundle demands {floors.minimum} and {floors.mean}. Worst text: "
            f"{str(worst)[:80]!r}. Use another variant, or export again on a machine like this one."
        )
    if not result.alone >= (floor := batch_invariance_floor(encoder.variant, floors)):
        raise GateError(
            f"golden check failed: a text's {answer} depends on the other texts of its batch ({measure_name(task)} "
            f"{result.alone:.5f} between alone and in a batch; {floor} is demanded). Use a variant that is not "
            "quantised dynamically."
        )
