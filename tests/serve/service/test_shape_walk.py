"""The canaries' walk: a shape that goes wrong after the start is found, and used no more."""

from __future__ import annotations

import asyncio

import numpy as np
from prometheus_client import CollectorRegistry

from embedship.batches import Batch, Layout, Shape
from embedship.bundle import Precision
from embedship.codes import Vectors
from embedship.serve.batching.executor import Workers
from embedship.serve.batching.priority_queue import Lanes
from embedship.serve.devices.hang_detector import Pulse
from embedship.serve.devices.local import LocalDevice
from embedship.serve.service.shape_walk import Walk
from embedship.serve.telemetry.metrics import Counts
from embedship.shapes import Texts

LAYOUT = Layout(0, 8)


class Sums:
    """A text's vector is a sum over its tokens; batches of `wrong` get another one."""

    streams = 1
    precision = Precision.FLOAT32

    def __init__(self) -> None:
        self.wrong: Shape | None = None
        self._rows = np.random.default_rng(0).standard_normal((100, 8)).astype(np.float32)

    def encode(self, batch: Batch) -> Vectors:
        sums: Vectors = (self._rows[batch.input_ids] * batch.attention_mask[..., None]).sum(1).astype(np.float32)
        return np.roll(sums, 3, axis=1) if batch.input_ids.shape == self.wrong else sums

    def close(self) -> None: ...


def test_a_shape_that_goes_wrong_later_leaves_the_plan() -> None:
    async def walk() -> None:
        engine, registry = Sums(), CollectorRegistry()
        device = LocalDevice("cpu:0", engine, Pulse(60.0))
        workers = Workers([device], 8, LAYOUT, Lanes(1536), Counts(registry))
        texts = Texts(list(range(10, 90)), [1], [2], False, LAYOUT.widths(), 0, None)
        walking = Walk(texts, LAYOUT.shapes(), 0.999)
        rounds = len(LAYOUT.shapes())
        assert all([await walking.on(workers, "cpu:0") for _ in range(rounds)])
        assert not workers.layout.wrong
        engine.wrong = Shape(4, 5)
        assert not all([await walking.on(workers, "cpu:0") for _ in range(rounds)])
        assert engine.wrong in workers.layout.wrong
        assert registry.get_sample_value("embedship_wrong_shapes") == len(workers.layout.wrong) <= 3
        workers.close()

    asyncio.run(walk())
