"""What the canaries sing: golden texts, re-encoded on every device for as long as the server runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from embedship.codes import Vectors
from embedship.encoder import Encoder
from embedship.golden_texts import GoldenTexts
from embedship.serve.batching.executor import BatchExecutor
from embedship.serve.service.shape_walk import ShapeWalk
from embedship.tokens import TokenBatch

# Texts of a round on each device: with MiniLM 16 texts of at most 64 tokens cost 40 ms every 30 s, 0.13% of a stream.
CANARIES = 16
CANARY_TOKENS = 64


@dataclass(frozen=True, slots=True)
class CanaryTexts:
    """The canaries: tokens of n golden texts, one by one, and the checkpoint's own (n, dim) float32 vectors."""

    tokens: list[TokenBatch]
    vectors: Vectors

    @classmethod
    def of(cls, encoder: Encoder) -> CanaryTexts:
        """At most CANARIES golden texts, evenly spaced from the shortest to the longest that is short enough.

        Scores are compared by their spread, so there are two at least.
        """
        golden = GoldenTexts.load(encoder.bundle)
        tokens = encoder.tokenizer(golden.texts)
        lengths = tokens.lengths
        order = [i for i in sorted(range(len(tokens)), key=lengths.__getitem__) if lengths[i]]
        short = [i for i in order if lengths[i] <= CANARY_TOKENS]
        short = short if len(short) > 1 else order[:2]
        places = np.unique(np.linspace(0, len(short) - 1, CANARIES).round().astype(int))
        chosen = [short[place] for place in places]
        return cls([tokens.row(i) for i in chosen], golden.vectors[chosen])


class CanaryTarget(NamedTuple):
    """The devices of one model, what they sing, and the shapes they walk through meanwhile."""

    workers: BatchExecutor
    songs: CanaryTexts
    walk: ShapeWalk | None = None
