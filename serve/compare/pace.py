"""Speed ratio of two encoders on the same texts. They run alternately, so that both see the same machine load."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from itertools import cycle, islice

from embedship.encoder import Encoder
from embedship.serve.compare.report import SpeedRatio

_ROUND_SECONDS = 0.4  # duration of one round of the slower encoder
_PILOT_TEXTS = 64


def measure_speedup(old: Encoder, new: Encoder, texts: Sequence[str], rounds: int) -> SpeedRatio:
    """Return NEW's texts per second divided by OLD's, one ratio per round. OLD runs first in every second round."""
    pilot = list(islice(cycle(texts), _PILOT_TEXTS))
    slowest = max(min(_seconds(encoder, pilot) for _ in range(2)) for encoder in (old, new))
    batch = list(islice(cycle(texts), max(_PILOT_TEXTS, int(_PILOT_TEXTS * _ROUND_SECONDS / slowest))))
    ratios = [_measure_round(old, new, batch, old_first=number % 2 == 0) for number in range(rounds)]
    return SpeedRatio(statistics.median(ratios), min(ratios), max(ratios), rounds)


def _measure_round(old: Encoder, new: Encoder, texts: list[str], old_first: bool) -> float:
    order = (old, new) if old_first else (new, old)
    seconds = {id(encoder): _seconds(encoder, texts) for encoder in order}
    return seconds[id(old)] / seconds[id(new)]


def _seconds(encoder: Encoder, texts: list[str]) -> float:
    start = time.perf_counter()
    encoder.encode(texts)
    return time.perf_counter() - start
