"""Texts of an audit: ordinary, unusual, two per batch width, and around the longest length that the model reads."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from embedship.batches import BatchLayout
from embedship.bundle import Bundle
from embedship.golden_texts import GoldenTexts
from embedship.tokens import Tokenizer

# Widths above this number of tokens are not tried, because each one needs requests that take seconds on a CPU.
LONGEST_WIDTH = 512
# If a model reads more tokens than this, its longest texts are not tried: attention would need too much memory.
LONGEST_EDGE = 2048
_OFFSETS = 6  # number of start words that are tried to find a text of exactly n tokens

# In addition to the adversarial golden texts of the bundle.
UNUSUAL = (
    "  two spaces before, two  inside, and two after  ",
    "three lines\nof one\n\ntext",
    "CAPITALS And MiXeD Case",
    "the same text with [SEP] and </s> inside",
    "crème brûlée à la façon de Zoë",
    "😀😀😀 emoji only at the ends 😀😀😀",
    "أين تقع أقرب محطة قطار؟",
    "query: a text that begins like a prompt",
    "0123456789" * 8,
    "tab\tseparated\tvalues\r\n",
)


@dataclass(frozen=True, slots=True)
class AuditTexts:
    """The texts of an audit. Token counts include special tokens and the prompt of plain texts.

    `lengths`: token count -> two texts, not longer than the model reads. `edge`: token count -> text, some are longer.
    """

    ordinary: list[str]
    unusual: list[str]
    lengths: dict[int, tuple[str, str]]
    edge: dict[int, str]

    @classmethod
    def from_bundle(cls, bundle: Bundle, tokenizer: Tokenizer, prompt: str) -> Self:
        """Make the texts for an audit. `prompt`: the prompt that the server should put before plain texts."""
        golden = GoldenTexts.load(bundle)
        model = bundle.manifest.pipeline
        ordinary = [text for text in map(str, golden.real) if _fits(tokenizer, text, prompt)]
        others = [str(text) for text in golden.texts[: -len(golden.real)]]
        unusual = [text for text in dict.fromkeys([*others, *UNUSUAL]) if _fits(tokenizer, text, prompt)]
        words = " ".join(ordinary).split()
        widths = [w for w in BatchLayout(model.pad_id, model.max_tokens).widths() if w <= LONGEST_WIDTH]
        lengths: dict[int, tuple[str, str]] = {}
        for width in widths:
            found = _texts_of_length(tokenizer, prompt, words, width)
            if len(found) == 2:
                lengths[width] = (found[0], found[1])
        most = model.max_tokens
        counts = [most - 1, most, most + 1, most + 2, 2 * most] if most <= LONGEST_EDGE else []
        # Each number occurs once, so that truncation at the wrong end changes the vector.
        numbers = [str(n) for n in range(2 * most + 2)] if counts else []
        edge = {n: text for n in counts for text in _texts_of_length(tokenizer, prompt, numbers, n, 1, rotate=False)}
        return cls(ordinary, unusual, lengths, edge)


def count_tokens(tokenizer: Tokenizer, texts: Sequence[str], prompt: str) -> list[int]:
    """Return the number of tokens of each text with the prompt and special tokens, before truncation."""
    tokens = tokenizer(texts, prompt)
    return [length + cut for length, cut in zip(tokens.lengths, tokens.cut, strict=True)]


def _fits(tokenizer: Tokenizer, text: str, prompt: str) -> bool:
    tokens = tokenizer([text], prompt)
    return tokens.cut == [0] and 0 < tokens.lengths[0] <= LONGEST_EDGE


def _texts_of_length(
    tokenizer: Tokenizer, prompt: str, words: Sequence[str], tokens: int, most: int = 2, *, rotate: bool = True
) -> list[str]:
    """Return up to `most` different texts of exactly `tokens` tokens. Each is made of the words, in their order."""
    texts: list[str] = []
    for attempt in range(_OFFSETS):
        start = (37 * tokens + 101 * attempt) % len(words) if rotate else attempt
        turned = [*words[start:], *words[:start]] * (1 + tokens // len(words))
        text = _text_of_length(tokenizer, prompt, turned, tokens)
        if text is not None and text not in texts:
            texts.append(text)
        if len(texts) == most:
            break
    return texts


def _text_of_length(tokenizer: Tokenizer, prompt: str, words: Sequence[str], tokens: int) -> str | None:
    def count(number: int) -> int:
        return count_tokens(tokenizer, [" ".join(words[:number])], prompt)[0]

    number = bisect.bisect_right(range(min(len(words), tokens) + 1), tokens, key=count) - 1
    if number < 1:
        return None
    missing = tokens - count(number)
    text = " ".join([*words[:number], *["a"] * missing])
    return text if count_tokens(tokenizer, [text], prompt) == [tokens] else None
