"""A server over an engine that is wrong for a shape of batch: nobody gets a vector of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Lock

import msgspec
import numpy as np
import pytest

from embedship import shapes, variant_choice
from embedship.batches import Batch, PaddedShape
from embedship.bundle import Bundle, Precision, WrongShape
from embedship.codes import Vectors, cosine
from embedship.encoder import Encoder
from embedship.engine import open_engine
from embedship.engine.protocol import Engine
from embedship.errors import ShapesError
from embedship.serve.service.state import ServerState
from embedship.serve.settings import Settings
from embedship.shapes.certificates import certificates_path
from embedship.tokens import Tokenizer

from .conftest import Asked, opened

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
    states: list[ServerState] = []

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
        states.append(ServerState.open(Settings(bundle=bundle, cache=tmp_path), encoder=encoder))
        return Asked(states[-1]), engine

    yield start
    for state in states:
        state.__exit__(None, None, None)


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


@pytest.fixture
def refused(bundle: Path, tmp_path: Path) -> Settings:
    """Settings with a cache in which a tenth of the shapes of the chosen variant are recorded as wrong."""
    whole = Bundle.open(bundle)
    target = certificates_path(whole, tmp_path)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(certificates_path(whole), target)
    with Encoder.open(whole) as encoder:
        known = shapes.ensure(encoder, tmp_path)
        wrong = [WrongShape(rows=s.rows, width=s.width, likeness=0.5) for s in encoder.layout.shapes()[::10]]
        shapes.store(encoder, msgspec.structs.replace(known, wrong=tuple(wrong)), tmp_path)
    return Settings(bundle=bundle, cache=tmp_path)


def test_without_a_named_variant_the_next_best_one_replaces_a_refused_one(refused: Settings) -> None:
    whole = Bundle.open(refused.bundle)
    choice = variant_choice.find_choice(whole)
    assert choice
    with opened(refused) as asked:
        used = asked.service.encoder.variant.name
        assert used != choice.variant
        warning = asked.service.model.warning
        assert warning
        assert f"shapes of {choice.variant} have wrong vectors on this machine: {used} is used" in warning
        with Encoder.open(whole, used) as encoder:
            expected = encoder.encode(TEXTS)
        answer = asked.post("/embed", {"inputs": TEXTS}).json()
        assert cosine(expected, np.asarray(answer, dtype=np.float32)).min() > 0.9999
    with pytest.raises(ShapesError, match=f"variant {choice.variant} gives wrong vectors"):
        ServerState.open(replace(refused, variant=choice.variant))
