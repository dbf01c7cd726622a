"""A server over an engine that is wrong for a shape of batch: nobody gets a vector of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Lock

import msgspec
import numpy as np
import pytest

from embedship.batches import Batch, PaddedShape
from embedship.bundle import Bundle, Precision
from embedship.codes import Vectors, cosine
from embedship.encoder import Encoder
from embedship.engine import open_engine
from embedship.engine.protocol import Engine
from embedship.serve.service.state import ServerState
from embedship.serve.settings import Settings
from embedship.tokens import Tokenizer

from .conftest import Asked

TEXTS = ["how to read the lines of a file"] * 4


class Faulty:
    """The real engine, but for batches of one shape; `always`, or once another shape was seen."""

    def __init__(self, engine: Engine, wrong: PaddedShape, always: bool) -> None:
        self.streams = engine.streams
        self.wrong, self.always = wrong, always
        self.told = 0
        self._engine = engine
        self._seen = False
        self._lock = Lock()

    @property
    def precision(self) -> Precision:
        return self._engine.precision

    def encode(self, batch: Batch) -> Vectors:
        vectors, shape = self._engine.encode(batch), batch.input_ids.shape
        if shape == (8, 16):
            self._seen = True
        if shape == self.wrong and (self.always or self._seen):
            with self._lock:
                self.told += 1
            return np.roll(vectors, 1, axis=1)
        return vectors

    def close(self) -> None:
        self._engine.close()


@pytest.fixture
def serving(bundle: Path, tmp_path: Path) -> Iterator[Callable[[bool], tuple[Asked, Faulty]]]:
    """A server of whose shapes nothing is known."""
    houses: list[ServerState] = []

    def start(always: bool) -> tuple[Asked, Faulty]:
        whole = Bundle.open(bundle)
        bare = tuple(msgspec.structs.replace(each, shapes=None) for each in whole.manifest.variants)
        small = Bundle(whole.folder, msgspec.structs.replace(whole.manifest, variants=bare))
        tokenizer = Tokenizer.open(small)
        longest = max(tokenizer(TEXTS).lengths)
        engine = Faulty(open_engine(small, "openvino-int8", 1), PaddedShape(4, longest), always)
        variant = next(each for each in bare if each.name == "openvino-int8")
        encoder = Encoder(small, variant, tokenizer, engine)
        # Of the shapes those of short texts are certified, and nothing longer is asked: it takes seconds, not a minute.
        encoder.layout = replace(encoder.layout, positions=24)
        houses.append(ServerState.open(Settings(bundle=bundle, cache=tmp_path), encoder=encoder))
        return Asked(houses[-1]), engine

    yield start
    for house in houses:
        house.__exit__(None, None, None)


@pytest.mark.parametrize("always", [True, False], ids=["always", "after another shape"])
def test_no_vector_of_a_wrong_shape_is_served(
    serving: Callable[[bool], tuple[Asked, Faulty]], bundle: Path, always: bool
) -> None:
    asked, engine = serving(always)
    before = engine.told
    answer = asked.post("/embed", {"inputs": TEXTS})
    assert answer.status_code == 200
    with Encoder.open(bundle, "openvino-int8", streams=1) as right:
        assert cosine(right.encode(TEXTS), np.asarray(answer.json(), dtype=np.float32)).min() > 0.999
    assert before > 0, "the fault was never met at start"
    assert engine.told == before
    assert engine.wrong in asked.service.workers.layout.wrong
    assert asked.metric("embedship_wrong_shapes") == 1
