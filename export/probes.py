"""Texts that a model is tried with: hostile ones, and real ones of the user or of Python's documentation."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from embedship import jsonl, stdlib_docs
from embedship.tokens import Text, Tokenizer

# Attention takes memory with the square of the length; a probe of 32,768 tokens would need more than the machine has.
LONGEST = 2048
_WIDTH = 80
_UNBROKEN = "".join(chr(ord("a") + i * 7 % 26) for i in range(10_000))


def hostile(tokenizer: Tokenizer, max_tokens: int) -> list[str]:
    """Empty, one character, exactly the maximum length, beyond, emoji, right-to-left, control characters, no space."""
    return [
        "",
        "a",
        exactly(tokenizer, max_tokens),
        " ".join(str(n) for n in range(max_tokens)),  # not one word again: the cut must be at the right end
        "👩‍🔬🧬 ❤️‍🔥 🇺🇦 zero\u200dwidth",
        "مرحبا بالعالم שלום עולם \u202eabc\u202c",
        "a\x00b\x07c\x1b[31m\td\r\ne\ufeff\ufffd",
        "ÀÉÎÕÜ ß ſ İstanbul ΣΊΣΥΦΟΣ ﬁ ① Ⅳ",  # noqa: RUF001
        "漢字かな交じり文 한국어 ไทย हिन्दी",
        "[CLS] [SEP] [PAD] <s> </s> <mask> <|endoftext|>",
        _UNBROKEN,
        "   \n\n\t  ",
        "...",
        "!!! ??? ... --- === \\ / {} <> `$(rm -rf)`",
    ]


def exactly(tokenizer: Tokenizer, tokens: int) -> str:
    """The longest run of one word that still fits into `tokens`: nothing is cut off, and one more word would be."""
    words = bisect.bisect_left(range(1, tokens + 2), 1, key=lambda n: tokenizer(["word " * n]).cut[0])
    return "word " * words


def within(tokenizer: Tokenizer, text: str, tokens: int) -> str:
    """The text, or the longest beginning of it that has at most `tokens`."""
    if tokenizer([text]).lengths[0] <= tokens:
        return text
    return text[: bisect.bisect_right(range(len(text)), tokens, key=lambda n: tokenizer([text[:n]]).lengths[0]) - 1]


def real(file: Path | None) -> list[str]:
    """All texts of a JSON Lines file, each once; without one, the documentation of Python's standard library.

    Raises UsageError naming the first bad line.
    """
    if file is not None:
        return list(dict.fromkeys(row.text for row in jsonl.read(file, jsonl.Text) if row.text.strip()))
    return [text for entry in stdlib_docs.entries() for text in (entry.summary, entry.body)]


def sample(texts: Sequence[str], count: int, seed: int) -> list[str]:
    """At most `count` of the texts, drawn with `seed`, in a drawn order."""
    drawn = np.random.default_rng(seed).permutation(len(texts))[:count]
    return [texts[i] for i in drawn]


def shown(text: Text) -> str:
    """A text, or a pair, as one short, printable line."""
    if not isinstance(text, str):
        return " | ".join(map(shown, text))
    return ascii(text) if len(text) <= _WIDTH else f"{text[:_WIDTH]!a}... ({len(text)} characters)"
