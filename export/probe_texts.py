"""Probe texts: adversarial texts, and real ones from the user or from Python's documentation."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from embedship import stdlib_docs
from embedship.files import jsonl
from embedship.tokens import Text, Tokenizer

# Attention memory grows with the square of the length: a probe of 32,768 tokens would not fit into memory.
LONGEST = 2048
_WIDTH = 80
_UNBROKEN = "".join(chr(ord("a") + i * 7 % 26) for i in range(10_000))


def adversarial_texts(tokenizer: Tokenizer, max_tokens: int) -> list[str]:
    """Return adversarial texts: empty, maximum length and beyond, emoji, right-to-left, control characters, ..."""
    return [
        "",
        "a",
        exactly(tokenizer, max_tokens),
        " ".join(str(n) for n in range(max_tokens)),  # no word occurs twice, so truncation at the wrong end shows
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


# Short texts as people type them into a search box or a chat, 1 to 8 tokens each. Every other one calibrates int8, and
# the rest judge it.
_SHORT = (
    "hello", "thank you", "ok", "how do you do that ?", "yes", "thanks", "refund", "no", "good morning", "sorry",
    "what is this", "what?", "how much is it", "how are you", "price list", "bye", "reset my password", "yes please",
    "is it open today", "what time is it", "cheap flights to rome", "can you help me", "side effects of aspirin",
    "symptoms of flu", "when does it start?", "opening hours", "contact us", "delete account", "python sort dict",
    "how to boil eggs", "tell me more about it", "what do you mean", "42", "7", "2024-05-01", "100%", "C++", "java",
    "hi there!", "see you later", "how to cook rice", "capital of france", "weather tomorrow", "next train to london",
    "who wrote hamlet", "why is the sky blue", "best laptop under 500", "iphone 15 pro", "i need help", "sure",
    "cancel my order please", "change my email address", "why?", "not bad", "where are you from", "who are you",
)  # fmt: skip
_SHORT_WORDS, _BEGINNINGS = 6, 16
SHORT_TOKENS = 8  # longest short text, without special tokens


def short(texts: Sequence[str], calibrated: bool) -> list[str]:
    """Return one half of our short texts (for calibration or for judging) and beginnings of `texts`.

    The beginnings have 1 to 6 words, in the language and of the kind that the model will read.
    """
    written_texts = _SHORT[0 if calibrated else 1 :: 2]
    words = [text.split() for text in texts[:_BEGINNINGS]]
    beginnings = [" ".join(each[: 1 + place % _SHORT_WORDS]) for place, each in enumerate(words)]
    return list(dict.fromkeys([*written_texts, *(text for text in beginnings if text)]))


def exactly(tokenizer: Tokenizer, tokens: int) -> str:
    """Return the longest repetition of one word that fits into `tokens` without truncation."""
    words = bisect.bisect_left(range(1, tokens + 2), 1, key=lambda n: tokenizer(["word " * n]).cut[0])
    return "word " * words


def truncate(tokenizer: Tokenizer, text: str, tokens: int) -> str:
    """Return the text, or its longest beginning of at most `tokens` tokens."""
    if tokenizer([text]).lengths[0] <= tokens:
        return text
    return text[: bisect.bisect_right(range(len(text)), tokens, key=lambda n: tokenizer([text[:n]]).lengths[0]) - 1]


def real(file: Path | None) -> list[str]:
    """Return the distinct texts of a JSON Lines file; without a file, Python's standard library documentation.

    Raises UsageError that names the first bad line.
    """
    if file is not None:
        return list(dict.fromkeys(row.text for row in jsonl.read(file, jsonl.TextLine) if row.text.strip()))
    return [text for entry in stdlib_docs.entries() for text in (entry.summary, entry.body)]


def sample(texts: Sequence[str], count: int, seed: int) -> list[str]:
    """Return at most `count` of the texts in random order, drawn with `seed`."""
    order = np.random.default_rng(seed).permutation(len(texts))[:count]
    return [texts[i] for i in order]


def shown(text: Text) -> str:
    """Return a text or pair as one short, printable line."""
    if not isinstance(text, str):
        return " | ".join(map(shown, text))
    return ascii(text) if len(text) <= _WIDTH else f"{text[:_WIDTH]!a}... ({len(text)} characters)"
