"""Every kind of adversarial text is there, and a variant that breaks on that one alone does not pass."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from embedship.bundle import Bundle, Precision
from embedship.codes import Vectors
from embedship.errors import GateError
from embedship.export import probe_texts
from embedship.export.gates.parity import FLOORS, judge, measure
from embedship.export.gates.probe_set import ProbeSet
from embedship.tokens import TokenBatch, Tokenizer

MAX = 256


@pytest.fixture(scope="module")
def tokenizer(bundle: Path) -> Tokenizer:
    return Tokenizer.open(Bundle.open(bundle))


def categories(text: str) -> set[str]:
    return {unicodedata.category(letter) for letter in text}


KINDS: dict[str, Callable[[str, TokenBatch], bool]] = {
    "empty": lambda text, tokens: text == "",
    "one character": lambda text, tokens: len(text) == 1,
    "maximum length": lambda text, tokens: tokens.lengths[0] == MAX and tokens.cut[0] == 0,
    "over-long": lambda text, tokens: tokens.cut[0] > 0 and " " in text,
    "emoji": lambda text, tokens: "\N{MICROSCOPE}" in text,
    "right-to-left": lambda text, tokens: (
        any(unicodedata.bidirectional(letter) in "ALR" for letter in text[:1])
        and unicodedata.bidirectional(text[:1]) == "AL"
    ),
    "control characters": lambda text, tokens: "Cc" in categories(text) and "\x00" in text,
    "10,000 characters without a space": lambda text, tokens: len(text) == 10_000 and not set(text) & set(" \n\t"),
}


class Given:
    def __init__(self, bundle: Bundle, vectors: Vectors) -> None:
        self.bundle, self.vectors = bundle, vectors

    def tokenizer(self, texts: list[str], prompt: str = "") -> TokenBatch:
        return TokenBatch([[1]] * len(texts), [0] * len(texts))

    def encode_tokens(self, tokens: TokenBatch) -> Vectors:
        return self.vectors


@pytest.mark.parametrize("kind", KINDS)
def test_a_variant_that_breaks_on_one_kind_is_refused(bundle: Path, tokenizer: Tokenizer, kind: str) -> None:
    opened = Bundle.open(bundle)
    texts = probe_texts.adversarial_texts(tokenizer, MAX)
    (row,) = (i for i, text in enumerate(texts) if KINDS[kind](text, tokenizer([text])))
    expected = np.random.default_rng(0).normal(size=(len(texts), 64)).astype(np.float32)
    asked = ProbeSet(texts, expected, len(texts), MAX, False)
    turned, broken = expected.copy(), expected.copy()
    turned[row] = -turned[row]
    broken[row, 0] = math.inf
    with pytest.raises(GateError) as raised:
        judge("onnx", Precision.INT8, measure(Given(opened, turned), "onnx", asked)[0], FLOORS[Precision.INT8])  # type: ignore[arg-type]
    assert probe_texts.shown(texts[row]) in str(raised.value)
    with pytest.raises(GateError, match="NaN or infinity for 1 of 14 texts") as raised:
        measure(Given(opened, broken), "onnx", asked)  # type: ignore[arg-type]
    assert probe_texts.shown(texts[row]) in str(raised.value)


def test_a_shown_text_is_one_printable_line() -> None:
    assert probe_texts.shown("a\nb\u202e") == r"'a\nb\u202e'"


def test_what_is_too_long_to_compare_is_cut_not_left_out(tokenizer: Tokenizer) -> None:
    text = " ".join(map(str, range(300)))
    short = probe_texts.truncate(tokenizer, text, 40)
    assert text.startswith(short)
    assert len(short) > 40
    assert tokenizer([short]).lengths[0] <= 40
    assert tokenizer([text[: len(short) + 2]]).lengths[0] > 40
    assert probe_texts.truncate(tokenizer, "short", 40) == "short"


def test_int8_is_not_judged_by_the_short_texts_it_was_calibrated_on() -> None:
    calibrated, judged = (set(probe_texts.short(["one two three", "four five six"], each)) for each in (True, False))
    ours = [each - {"one", "four five"} for each in (calibrated, judged)]
    assert {"one", "four five"} <= calibrated & judged, "beginnings of the texts that are given"
    assert not ours[0] & ours[1]
    assert {"thank you", "how do you do that ?"} <= ours[1], "the worst of MiniLM, at cosine 0.958 and 0.960"
    assert min(map(len, ours)) >= 25
