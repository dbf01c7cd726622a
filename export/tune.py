"""How fast is each variant on this machine, through the encoder, on real texts? The fastest is what `serve` takes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from statistics import median

from embedship import hardware
from embedship.bundle import Choice
from embedship.encoder import Encoder

# Enough for two full batches on each of two cores, little enough for all rounds of a slow variant to end in seconds.
_TOKENS = 3_000
_ROUNDS = 3


def choose(encoders: Mapping[str, Encoder], texts: Sequence[str]) -> Choice:
    """Measure tokens a second (special tokens counted, padding not) and choose the fastest variant.

    Rounds are interleaved, so that a machine that slows down slows all of them; the first is a warm-up.
    """
    slice_, tokens = _slice(next(iter(encoders.values())), texts)
    speeds: dict[str, list[float]] = {name: [] for name in encoders}
    for _ in range(1 + _ROUNDS):
        for name, encoder in encoders.items():
            speeds[name].append(tokens / _seconds(encoder, slice_))
    medians = {name: round(median(runs[1:]), 1) for name, runs in speeds.items()}
    fastest = max(medians, key=lambda name: medians[name])
    return Choice(variant=fastest, machine=hardware.machine(), tokens_per_second=medians)


def _slice(encoder: Encoder, texts: Sequence[str]) -> tuple[list[str], int]:
    """The first texts that make up _TOKENS, and how many tokens they are; all of them where there are fewer."""
    total = 0
    for count, length in enumerate(encoder.tokenizer(texts).lengths, 1):
        total += length
        if total >= _TOKENS:
            return list(texts[:count]), total
    return list(texts), total


def _seconds(encoder: Encoder, texts: list[str]) -> float:
    started = time.perf_counter()
    encoder.encode(texts)
    return time.perf_counter() - started
