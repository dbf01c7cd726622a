from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from embedship.batches import Batch
from embedship.bundle import Bundle, ParityFloors, Quantisation
from embedship.codes import Vectors
from embedship.encoder import Encoder
from embedship.errors import GateError
from embedship.export.checkpoint.embedder import EmbedderCheckpoint
from embedship.export.gates import batch_invariance
from embedship.export.gates.probe_set import ProbeSet
from embedship.golden_texts import ALONE_FLOOR
from embedship.tokens import Tokenizer

from ..conftest import edit

TEXTS = ["a", "hello world", "...", "one two three four five six", "word " * 60, "czech", "seven eight", "nine ten"]
INT8 = ParityFloors(minimum=0.97, mean=0.99, overlap=0.85, length=0.9)


class Spoilt:
    """An engine that has noticed something about the batch, and lets it into the vectors."""

    def __init__(self, noticed: Callable[[Batch], float]) -> None:
        self.noticed, self.streams = noticed, 2

    def encode(self, batch: Batch) -> Vectors:
        sums = np.array([ids[mask > 0].sum() for ids, mask in zip(batch.input_ids, batch.attention_mask, strict=True)])
        vectors = np.random.default_rng(0).normal(size=(1, 384)) + sums[:, None] % 97 * np.linspace(-1, 1, 384)
        vectors[:, 0] += self.noticed(batch) * np.linalg.norm(vectors, axis=1)
        return vectors.astype(np.float32)

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture(scope="module")
def opened(bundle: Path) -> Bundle:
    return Bundle.open(bundle)


def spoilt(opened: Bundle, noticed: Callable[[Batch], float]) -> Encoder:
    return Encoder(opened, opened.plain, Tokenizer.open(opened), Spoilt(noticed))  # type: ignore[arg-type]


def crowd(batch: Batch) -> float:
    return 0.1 * (len(batch) > 1)


def padding(batch: Batch) -> float:
    return 0.1 * (batch.attention_mask[:, -1].max() == 0)


def left(batch: Batch) -> float:
    return 0.1 * (batch.attention_mask[:, 0].min() == 0)


@pytest.mark.parametrize(
    ("noticed", "caught"),
    [
        (lambda batch: 0.0, set()),
        (crowd, {"shuffled", "over_padded", "other_side"}),
        (padding, {"over_padded"}),
        (left, {"other_side"}),
    ],
)
def test_each_company_is_kept(opened: Bundle, noticed: Callable[[Batch], float], caught: set[str]) -> None:
    with spoilt(opened, noticed) as encoder:
        found = batch_invariance.certify(encoder, TEXTS, pad_left=True)
    assert found.texts == len(TEXTS)
    figures = {name: getattr(found, name) for name in ("shuffled", "over_padded", "other_side")}
    assert {name for name, figure in figures.items() if figure < ALONE_FLOOR} == caught
    assert found.worst == min(figures.values())


def test_the_side_is_not_asked_of_a_model_that_depends_on_it(opened: Bundle) -> None:
    with spoilt(opened, left) as encoder:
        found = batch_invariance.certify(encoder, TEXTS, pad_left=False)
    assert found.other_side is None
    assert found.worst >= ALONE_FLOOR


def test_the_worst_text_is_named_with_figures(opened: Bundle) -> None:
    with spoilt(opened, lambda batch: 0.1 * (len(batch) > 1 and batch.input_ids[0, 0] > 0)) as encoder:
        found = batch_invariance.certify(encoder, TEXTS, pad_left=False)
        with pytest.raises(GateError, match=r"with its batch: worst cosine .* 0\.99.*Worst of"):
            batch_invariance.judge(opened.plain, found, INT8)
    assert found.worst_text.startswith("'")


def test_nan_passes_no_floor(opened: Bundle) -> None:
    with spoilt(opened, lambda batch: math.nan * (len(batch) > 1) if len(batch) > 1 else 0.0) as encoder:
        found = batch_invariance.certify(encoder, TEXTS, pad_left=False)
    assert math.isnan(found.worst)
    with pytest.raises(GateError, match="nan"):
        batch_invariance.judge(opened.plain, found, INT8)


def test_dynamic_int8_may_vary_as_much_as_int8_may_differ(opened: Bundle) -> None:
    dynamic = msgspec.structs.replace(opened.plain, quantisation=Quantisation.DYNAMIC)
    found = msgspec.structs.replace(opened.plain.invariance, shuffled=0.98)
    batch_invariance.judge(dynamic, found, INT8)
    for variant, worse in ((opened.plain, found), (dynamic, msgspec.structs.replace(found, shuffled=0.96))):
        with pytest.raises(GateError, match="with its batch"):
            batch_invariance.judge(variant, worse, INT8)


def test_real_variants_are_certified(opened: Bundle) -> None:
    for variant in opened.manifest.variants:
        assert variant.invariance.texts >= 25
        assert variant.invariance.worst >= ALONE_FLOOR
        assert variant.invariance.other_side is None, "BERT's positions count from the left edge"


@pytest.mark.parametrize(
    ("backbone", "side", "expected"), [("bert", "left", False), ("qwen3", "left", True), ("qwen3", "right", False)]
)
def test_left_padding_is_asked_only_where_a_tool_makes_it_and_the_checkpoint_bears_it(
    checkpoint: Any, backbone: str, side: str, expected: bool
) -> None:
    opened = EmbedderCheckpoint.open(checkpoint(backbone=backbone))
    opened.model.tokenizer.padding_side = side
    texts = ["read", "read the file of the date", "parse word text"]
    assert batch_invariance.meets_left_padding(opened, texts, opened.encode(texts)) is expected
    assert opened.model.tokenizer.padding_side == side


BESIDE = ["read", "of the file", "parse word text", "date " * 30]


@pytest.mark.parametrize("backbone", ["bert", "gpt2"])
def test_a_checkpoint_that_depends_on_its_batch_is_named_and_no_variant(
    checkpoint: Any, backbone: str, tmp_path: Path
) -> None:
    """Positions that count from the left edge of the batch, and padding on the left."""
    folder = checkpoint(backbone=backbone, pooling="lasttoken")
    edit(folder / "tokenizer_config.json", padding_side="left")
    opened = EmbedderCheckpoint.open(folder)
    (tmp_path / "tokenizer.json").write_text(opened.tokenizer_json)
    tokenizer = Tokenizer(tmp_path / "tokenizer.json", opened.pipeline)
    named = r"the checkpoint itself \(saved\).*' alone and in a batch padded on the left.*set padding_side to right"
    with pytest.raises(GateError, match=named):
        ProbeSet.make(opened, tokenizer, BESIDE)
    opened.model.tokenizer.padding_side = "right"
    batch_invariance.require_checkpoint_invariant(opened, BESIDE)
    assert not ProbeSet.make(opened, tokenizer, BESIDE).either_side
