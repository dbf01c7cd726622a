"""Canary texts: golden texts that are re-encoded periodically on every device to detect a broken model."""

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

# Texts per check and device. For MiniLM, 16 texts of at most 64 tokens take 40 ms every 30 s: 0.13% of a stream.
CANARIES = 16
CANARY_TOKENS = 64


@dataclass(frozen=True, slots=True)
class CanaryTexts:
    """Tokens of n golden texts, one batch per text, and the checkpoint's (n, dim) float32 vectors."""

    tokens: list[TokenBatch]
    vectors: Vectors

    @classmethod
    def from_encoder(cls, encoder: Encoder) -> CanaryTexts:
        """Choose at most CANARIES golden texts, evenly spaced by length up to CANARY_TOKENS tokens.

        At least two are chosen, because scores of a re-ranker are compared relative to their spread.
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
    """Devices of one model, with their canary texts and the periodic check of their batch shapes."""

    workers: BatchExecutor
    texts: CanaryTexts
    walk: ShapeWalk | None = None
