"""Golden texts: probes whose tokens and vectors were written down when the bundle was exported; a re-ranker's are pairs
and their scores.

A running variant must still produce them, alone and in company, before it may answer anybody.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from embedship.bundle import Task
from embedship.encoder import Encoder
from embedship.errors import GateError
from embedship.golden_texts import GoldenTexts, batch_invariance_floor
from embedship.likeness import measure, similarity
from embedship.tokens import Text


@dataclass(frozen=True, slots=True)
class GoldenCheck:
    """Worst cosine to the checkpoint, and worst cosine between a text alone and the same text in a batch; of scores,
    how alike they are (see likeness.py)."""

    texts: int
    minimum: float
    mean: float
    alone: float


def check(encoder: Encoder) -> GoldenCheck:
    """Run the golden texts through the encoder, alone and coalesced.

    Raises GateError if a token id, the cosine to the checkpoint, or the agreement of alone and coalesced is off:
    the floor is the one the bundle was exported with, for the precision that really runs here.
    """
    golden = GoldenTexts.load(encoder.bundle)
    tokens = encoder.tokenizer(golden.texts)
    for text, ours, theirs in zip(golden.texts, tokens.ids, golden.ids, strict=True):
        if ours != theirs:
            raise GateError(
                f"the tokenizer gives other ids than at export for {str(text)[:60]!r}: reinstall `tokenizers`"
            )
    together = encoder.encode_tokens(tokens)
    alone = np.concatenate([encoder.encode_tokens(tokens.row(place)) for place in range(len(tokens))])
    task = encoder.bundle.task
    parity, company = similarity(task, golden.vectors, together), similarity(task, alone, together)
    result = GoldenCheck(len(golden.texts), float(parity.min()), float(parity.mean()), float(company.min()))
    _judge(encoder, result, golden.texts[int(parity.argmin())])
    return result


def _judge(encoder: Encoder, result: GoldenCheck, worst: Text) -> None:
    precision, task = encoder.engine.precision, encoder.bundle.task
    answer = "vector" if task is Task.EMBED else "score"
    floors = encoder.bundle.manifest.floors[precision]
    # `not >=` and never `<`: a NaN must fail.
    if not (result.minimum >= floors.minimum and result.mean >= floors.mean):
        raise GateError(
            f"golden check failed at {precision}: {measure(task)} to the checkpoint is min {result.minimum:.5f}, mean "
            f"{result.mean:.5f}; the bundle demands {floors.minimum} and {floors.mean}. Worst text: "
            f"{str(worst)[:80]!r}. Take another variant, or export again on a machine like this one."
        )
    if not result.alone >= (floor := batch_invariance_floor(encoder.variant, floors)):
        raise GateError(
            f"golden check failed: a text's {answer} changes with its neighbours ({measure(task)} {result.alone:.5f} "
            f"between alone and in a batch; {floor} is demanded). Take a variant that is not quantised dynamically."
        )
