"""How much faster is one encoder than another on the same texts? In turn, so that both see the same machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from itertools import cycle, islice

from embedship.encoder import Encoder
from embedship.serve.compare.report import SpeedRatio

_ROUND_SECONDS = 0.4  # of the slower one
_PILOT = 64


def measure_speedup(old: Encoder, new: Encoder, texts: Sequence[str], rounds: int) -> SpeedRatio:
    """NEW's texts a second over OLD's, a ratio a round; who begins changes with every round."""
    pilot = list(islice(cycle(texts), _PILOT))
    slowest = max(min(_seconds(encoder, pilot) for _ in range(2)) for encoder in (old, new))
    lot = list(islice(cycle(texts), max(_PILOT, int(_PILOT * _ROUND_SECONDS / slowest))))
    ratios = [_round(old, new, lot, first=number % 2 == 0) for number in range(rounds)]
    return SpeedRatio(statistics.median(ratios), min(ratios), max(ratios), rounds)


def _round(old: Encoder, new: Encoder, texts: list[str], first: bool) -> float:
    """`first`: OLD begins."""
    order = (old, new) if first else (new, old)
    took = {id(encoder): _seconds(encoder, texts) for encoder in order}
    return took[id(old)] / took[id(new)]


def _seconds(encoder: Encoder, texts: list[str]) -> float:
    began = time.perf_counter()
    encoder.encode(texts)
    return time.perf_counter() - began
