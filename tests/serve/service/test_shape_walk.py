"""The canaries' walk: a shape that goes wrong after the start is found, and used no more."""

from __future__ import annotations

import asyncio

import numpy as np
from prometheus_client import CollectorRegistry

from embedship.batches import Batch, BatchLayout, PaddedShape
from embedship.bundle import Precision
from embedship.codes import Vectors
from embedship.serve.batching.executor import BatchExecutor
from embedship.serve.batching.priority_queue import PriorityQueue
from embedship.serve.devices.hang_detector import HangDetector
from embedship.serve.devices.local import LocalDevice
from embedship.serve.service.shape_walk import ShapeWalk
from embedship.serve.telemetry.metrics import ModelMetrics
from embedship.shapes import ShapeTexts

LAYOUT = BatchLayout(0, 8)


class Sums:
    """A text's vector is a sum over its tokens; batches of `wrong` get another one."""

    streams = 1
    precision = Precision.FLOAT32

    def __init__(self) -> None:
        self.wrong: PaddedShape | None = None
        self._rows = np.random.default_rng(0).standard_normal((100, 8)).astype(np.float32)

    def encode(self, batch: Batch) -> Vectors:
        sums: Vectors = (self._rows[batch.input_ids] * batch.attention_mask[..., None]).sum(1).astype(np.float32)
        return np.roll(sums, 3, axis=1) if batch.input_ids.shape == self.wrong else sums

    def close(self) -> None: ...


def test_a_shape_that_goes_wrong_later_leaves_the_plan() -> None:
    async def walk() -> None:
        engine, registry = Sums(), CollectorRegistry()
        device = LocalDevice("cpu:0", engine, HangDetector(60.0))
        workers = BatchExecutor([device], 8, LAYOUT, PriorityQueue(1536), ModelMetrics(registry))
        texts = ShapeTexts(list(range(10, 90)), [1], [2], False, LAYOUT.widths(), 0, None)
        walking = ShapeWalk(texts, LAYOUT.shapes(), 0.999)
        rounds = len(LAYOUT.shapes())
        assert all([await walking.on(workers, "cpu:0") for _ in range(rounds)])
        assert not workers.layout.wrong
        engine.wrong = PaddedShape(4, 5)
        assert not all([await walking.on(workers, "cpu:0") for _ in range(rounds)])
        assert engine.wrong in workers.layout.wrong
        assert registry.get_sample_value("embedship_wrong_shapes") == len(workers.layout.wrong) <= 3
        workers.close()

    asyncio.run(walk())
