"""How fast is each variant on this machine, through the encoder, on real texts? The fastest is what `serve` takes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from embedship import hardware
from embedship.bundle import Choice, Objective
from embedship.encoder import Encoder
from embedship.tokens import Tokenizer

# A round takes the slowest variant about this long: some six batches on two cores. With three, one core idles at the
# end of every round and all figures are a fifth too low.
_ROUND_SECONDS = 1.2
_ROUNDS = 2
_PILOT_TOKENS = 1_500  # one batch, so one stream


def choose(encoders: Mapping[str, Encoder], texts: Sequence[str]) -> Choice:
    """Measure tokens a second (special tokens counted, padding not) and choose the fastest variant.

    Rounds are interleaved, and the faster one counts: the first also warms up, and what slows a round down on a shared
    machine is never the variant.
    """
    first = next(iter(encoders.values()))
    pilot, tokens = _slice(first.tokenizer, texts, _PILOT_TOKENS)
    slowest = tokens / max(_seconds(encoder, pilot) for encoder in encoders.values())
    lot, tokens = _slice(first.tokenizer, texts, int(slowest * first.engine.streams * _ROUND_SECONDS))
    rounds = [{name: tokens / _seconds(encoder, lot) for name, encoder in encoders.items()} for _ in range(_ROUNDS)]
    speeds = {name: round(max(speeds[name] for speeds in rounds), 1) for name in encoders}
    return Choice(
        objective=Objective.THROUGHPUT,
        variant=max(speeds, key=lambda name: speeds[name]),
        machine=hardware.machine(),
        tokens_per_second=speeds,
        latency_seconds={},
    )


def _slice(tokenizer: Tokenizer, texts: Sequence[str], wanted: int) -> tuple[list[str], int]:
    """The first texts that make up `wanted` tokens, and how many tokens they are; all of them where there are fewer."""
    total = 0
    for count, length in enumerate(tokenizer(texts).lengths, 1):
        total += length
        if total >= wanted:
            return list(texts[:count]), total
    return list(texts), total


def _seconds(encoder: Encoder, texts: list[str]) -> float:
    started = time.perf_counter()
    encoder.encode(texts)
    return time.perf_counter() - started
