"""Tokenizer: turns texts into token ids with the bundle's prompts and truncation, and counts the tokens lost to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import tokenizers

from embedship.bundle import TOKENIZER, Bundle, ModelSpec, Task
from embedship.errors import UnsafeError

# The input of a model: a text, or for a re-ranker a query and a passage.
Text = str | tuple[str, str]

# Texts, and their characters, per call of the tokenizer. A call cannot be interrupted, and it holds about 100 bytes per
# token: one call for 64 texts of 200,000 characters took 30 s of CPU time and 1 GiB.
_SLICE_TEXTS = 64
_SLICE_CHARACTERS = 200_000

Item = TypeVar("Item")


def slices(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Yield texts, pairs or rows of token ids in order, as many at a time as one call of the tokenizer should get.

    >>> [len(some) for some in slices(["a" * 150_000, "b" * 50_000, "c"])]
    [2, 1]
    """
    current: list[Item] = []
    total = 0
    for item in items:
        size = characters(item)
        if current and (len(current) == _SLICE_TEXTS or total + size > _SLICE_CHARACTERS):
            yield current
            current, total = [], 0
        current.append(item)
        total += size
    if current:
        yield current


def characters(item: Any) -> int:
    """Return the number of characters of a text or a pair, or of ids in a row of token ids."""
    return len(item[0]) + len(item[1]) if isinstance(item, tuple) else len(item)


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Token ids of n texts or pairs, special tokens included, unpadded."""

    ids: list[list[int]]
    cut: list[int]  # how many tokens each text lost to truncation
    # Where the second text of each pair begins (its token types are 1), or the text after a prompt that is not pooled.
    turns: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> list[int]:
        """The number of tokens of each text."""
        return [len(row) for row in self.ids]

    def row(self, index: int) -> TokenBatch:
        """Return the tokens of one text."""
        return TokenBatch([self.ids[index]], [self.cut[index]], self.turns[index : index + 1])


@contextmanager
def _translate_failures(failure: str) -> Iterator[None]:
    """Raise UnsafeError if the Rust code of `tokenizers` panics, for example if a regular expression hits its limit.

    A panic is not a subclass of Exception, so handlers of Exception would miss it. Other failures of a wrong file, such
    as an unknown word without a token for unknown words, are a bare Exception.
    """
    try:
        yield
    except BaseException as error:
        if type(error) is not Exception and type(error).__name__ != "PanicException":  # pyo3 does not export the class
            raise
        raise UnsafeError(f"{TOKENIZER} {failure}: {str(error)[:200]}") from None


class Tokenizer:
    """Tokenises texts for one model. Thread-safe: truncation is set only once, because a change during use panics."""

    def __init__(self, file: Path, pipeline: ModelSpec) -> None:
        self._pipeline = pipeline
        self._rust = tokenizers.Tokenizer.from_file(str(file))
        self._rust.no_padding()
        self._rust.enable_truncation(pipeline.max_tokens)
        self._specials: int = self._rust.num_special_tokens_to_add(is_pair=False)
        self._head, self._tail = self._frame()
        # Truncation of a pair shortens the longer text first. To count the lost tokens, tokenise without truncation.
        self._untruncated = tokenizers.Tokenizer.from_file(str(file)) if pipeline.task is Task.RERANK else None
        if self._untruncated:
            self._untruncated.no_padding()
            self._untruncated.no_truncation()

    @classmethod
    def open(cls, bundle: Bundle) -> Self:
        """Open the tokenizer of a bundle. Raises UnsafeError."""
        with _translate_failures("cannot be read"):
            return cls(bundle.path(TOKENIZER), bundle.manifest.pipeline)

    def prompt(self, name: str | None) -> str:
        """Return the text of a named prompt, as `ModelSpec.prompt` does."""
        return self._pipeline.prompt(name)

    def __call__(self, texts: Sequence[Text], prompt: str = "") -> TokenBatch:
        """Tokenise texts with `prompt` before each, or pairs. Long ones are truncated, and lost tokens are counted."""
        with _translate_failures("fails on this text"):
            if self._untruncated:
                return self._pairs(texts)
            return self._texts(texts, prompt)  # type: ignore[arg-type]  # pairs are given only to re-rankers

    def _pairs(self, pairs: Sequence[Text]) -> TokenBatch:
        encoded = self._rust.encode_batch_fast(list(pairs))
        cut = [self._truncated_tokens(pair, e) for pair, e in zip(pairs, encoded, strict=True)]
        # Types are 0, then 1, which the export has checked. A single text has no second part.
        turns = [zeros if (zeros := e.type_ids.count(0)) < len(e.ids) else 0 for e in encoded]
        return TokenBatch([e.ids for e in encoded], cut, turns)

    def _truncated_tokens(self, pair: Text, encoding: tokenizers.Encoding) -> int:
        if not encoding.overflowing:
            return 0
        assert self._untruncated is not None, "only a re-ranker reads pairs"
        (whole,) = self._untruncated.encode_batch_fast([pair])
        return len(whole.ids) - len(encoding.ids)

    def _texts(self, texts: Sequence[str], prompt: str) -> TokenBatch:
        prepared = [prompt + text for text in texts] if prompt else list(texts)
        if self._pipeline.lowercase:
            prepared = [text.lower() for text in prepared]
        encoded = self._rust.encode_batch_fast(prepared)
        ids, cut = [e.ids for e in encoded], [self._lost(e) for e in encoded]
        if self._pipeline.pools_prompts or not prompt:
            return TokenBatch(ids, cut)
        unpooled = self._prompt_length(prompt)
        # Without a token after the prompt there is nothing to pool, so such a text is empty for this model.
        return TokenBatch([row if len(row) > unpooled else [] for row in ids], cut, [unpooled] * len(ids))

    def _prompt_length(self, prompt: str) -> int:
        """Return the number of tokens of a prompt alone, without a special token at its end (sentence-transformers)."""
        ids = self._rust.encode(prompt.lower() if self._pipeline.lowercase else prompt).ids
        return len(ids) - 1 if self._tail and ids[-1] == self._tail[-1] else len(ids)

    @property
    def size(self) -> int:
        """The size of the vocabulary: every token id is below it."""
        return int(self._rust.get_vocab_size())

    @property
    def special_tokens(self) -> tuple[list[int], list[int]]:
        """The special tokens before and after every text. Without them, ids give another vector and no error."""
        return self._head, self._tail

    def tokenize(self, texts: Sequence[str], prompt: str = "", specials: bool = True) -> list[tokenizers.Encoding]:
        """Return the encoding of each text, token by token. Truncated parts are in `overflowing`."""
        prepared = [prompt + text for text in texts]
        if self._pipeline.lowercase:
            prepared = [text.lower() for text in prepared]
        with _translate_failures("fails on this text"):
            return list(self._rust.encode_batch(prepared, add_special_tokens=specials))

    def offsets(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        """Return the characters (start, end) of every token of each text. No truncation, prompt or special tokens."""
        return [
            self._character_spans(text, encoding)
            for text, encoding in zip(texts, self.tokenize(texts, "", False), strict=True)
        ]

    def _character_spans(self, text: str, encoding: tokenizers.Encoding) -> list[tuple[int, int]]:
        spans = [span for part in (encoding, *encoding.overflowing) for span in part.offsets]
        if not self._pipeline.lowercase or len(text.lower()) == len(text):
            return spans
        # Lower-casing changes the length: a capital I with a dot becomes two characters.
        origin = [position for position, character in enumerate(text) for _ in character.lower()] + [len(text)]
        return [(origin[start], origin[end - 1] + 1 if end > start else origin[end]) for start, end in spans]

    def decode(self, ids: Sequence[Sequence[int]], skip_specials: bool) -> list[str]:
        """Return the text of each row of token ids. Raises UnsafeError."""
        with _translate_failures("fails on this text"):
            return list(self._rust.decode_batch([list(row) for row in ids], skip_special_tokens=skip_specials))

    def _frame(self) -> tuple[list[int], list[int]]:
        """Return the special tokens before and after a text."""
        bare = self._rust.encode("a", add_special_tokens=False).ids
        framed = self._rust.encode("a").ids
        for head in range(len(framed) - len(bare) + 1):
            if framed[head : head + len(bare)] == bare:
                return framed[:head], framed[head + len(bare) :]
        return [], []  # it adds no special tokens, or changes the text itself

    def _lost(self, encoding: tokenizers.Encoding) -> int:
        return sum(len(piece.ids) - self._specials for piece in encoding.overflowing)
