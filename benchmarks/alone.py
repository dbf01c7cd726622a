"""The model alone: batches made beforehand, on as many threads as its engine has streams."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from embedship import Encoder
from embedship.batches import Batch, plan


def batches(encoder: Encoder, texts: Sequence[str]) -> list[Batch]:
    tokens = encoder.tokenizer(texts)
    return [encoder.layout.batch([tokens.ids[row] for row in rows]) for rows in plan(tokens.lengths)]


def seconds(encoder: Encoder, made: Sequence[Batch]) -> float:
    """What it takes to compute them."""
    with ThreadPoolExecutor(encoder.engine.streams) as threads:
        return timed(lambda: list(threads.map(encoder.engine.encode, made)))


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
