"""Text -> Tokens, with the bundle's own truncation and prompts, and an account of what was cut off."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import tokenizers

from embedship.bundle import TOKENIZER, Bundle, ModelSpec, Task
from embedship.errors import UnsafeError

# What a model reads at once: a text, or for a re-ranker a query and a passage.
Text = str | tuple[str, str]


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Token ids of n texts or pairs, special tokens included, unpadded."""

    ids: list[list[int]]
    cut: list[int]  # how many tokens each text lost to truncation
    turns: Sequence[int] = ()  # where the second text of each pair begins, its token types being 1; none: no pairs

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> list[int]:
        return [len(row) for row in self.ids]

    def row(self, place: int) -> TokenBatch:
        """The tokens of one text alone."""
        return TokenBatch([self.ids[place]], [self.cut[place]], self.turns[place : place + 1])


@contextmanager
def _panics() -> Iterator[None]:
    """Raise UnsafeError where the Rust code of `tokenizers` panics: its exception is no Exception, and passes handlers.

    A regular expression of the tokenizer that reaches its limit does that, for example.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # pyo3 exports no class of it
            raise
        raise UnsafeError(f"{TOKENIZER} fails on this text: {str(error)[:200]}") from None


class Tokenizer:
    """Thread-safe: truncation is set once, here, and never again (changing it under load panics in Rust)."""

    def __init__(self, file: Path, pipeline: ModelSpec) -> None:
        self._pipeline = pipeline
        self._rust = tokenizers.Tokenizer.from_file(str(file))
        self._rust.no_padding()
        self._rust.enable_truncation(pipeline.max_tokens)
        self._specials: int = self._rust.num_special_tokens_to_add(is_pair=False)
        self._head, self._tail = self._frame()
        # Pairs lose the ends of both texts, the longer one first: what they lost is seen only where nothing is cut.
        self._whole = tokenizers.Tokenizer.from_file(str(file)) if pipeline.task is Task.RERANK else None
        if self._whole:
            self._whole.no_padding()
            self._whole.no_truncation()

    @classmethod
    def open(cls, bundle: Bundle) -> Self:
        with _panics():
            return cls(bundle.path(TOKENIZER), bundle.manifest.pipeline)

    def prompt(self, name: str | None) -> str:
        """As `Pipeline.prompt`."""
        return self._pipeline.prompt(name)

    def __call__(self, texts: Sequence[Text], prompt: str = "") -> TokenBatch:
        """Tokenise texts with `prompt` put before each, or pairs; none is too long, what is cut off is counted."""
        with _panics():
            if self._whole:
                return self._pairs(texts)
            return self._texts(texts, prompt)  # type: ignore[arg-type]  # whoever has pairs has opened a re-ranker

    def _pairs(self, pairs: Sequence[Text]) -> TokenBatch:
        encoded = self._rust.encode_batch_fast(list(pairs))
        cut = [self._beyond(pair, e) for pair, e in zip(pairs, encoded, strict=True)]
        # Types are 0 and then 1, which the export has checked; a single text has no turn.
        turns = [zeros if (zeros := e.type_ids.count(0)) < len(e.ids) else 0 for e in encoded]
        return TokenBatch([e.ids for e in encoded], cut, turns)

    def _beyond(self, pair: Text, encoding: tokenizers.Encoding) -> int:
        if not encoding.overflowing:
            return 0
        assert self._whole is not None, "only a re-ranker reads pairs"
        (whole,) = self._whole.encode_batch_fast([pair])
        return len(whole.ids) - len(encoding.ids)

    def _texts(self, texts: Sequence[str], prompt: str) -> TokenBatch:
        prepared = [prompt + text for text in texts] if prompt else list(texts)
        if self._pipeline.lowercase:
            prepared = [text.lower() for text in prepared]
        encoded = self._rust.encode_batch_fast(prepared)
        return TokenBatch([e.ids for e in encoded], [self._lost(e) for e in encoded])

    @property
    def size(self) -> int:
        """Ids are below this."""
        return int(self._rust.get_vocab_size())

    @property
    def special_tokens(self) -> tuple[list[int], list[int]]:
        """The special tokens before and after every text: ids without them give another vector, silently."""
        return self._head, self._tail

    def tokenize(self, texts: Sequence[str], prompt: str = "", specials: bool = True) -> list[tokenizers.Encoding]:
        """What the model reads of each text, token by token; what it does not read is in `overflowing`."""
        prepared = [prompt + text for text in texts]
        if self._pipeline.lowercase:
            prepared = [text.lower() for text in prepared]
        with _panics():
            return list(self._rust.encode_batch(prepared, add_special_tokens=specials))

    def offsets(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        """The characters (start, end) of every token of each text, however long it is; no prompt, no special tokens."""
        return [
            self._places(text, encoding) for text, encoding in zip(texts, self.tokenize(texts, "", False), strict=True)
        ]

    def _places(self, text: str, encoding: tokenizers.Encoding) -> list[tuple[int, int]]:
        found = [place for piece in (encoding, *encoding.overflowing) for place in piece.offsets]
        if not self._pipeline.lowercase or len(text.lower()) == len(text):
            return found
        # A capital I with a dot is two characters in lower case.
        origin = [place for place, each in enumerate(text) for _ in each.lower()] + [len(text)]
        return [(origin[start], origin[end - 1] + 1 if end > start else origin[end]) for start, end in found]

    def decode(self, ids: Sequence[Sequence[int]], skip_specials: bool) -> list[str]:
        with _panics():
            return list(self._rust.decode_batch([list(row) for row in ids], skip_special_tokens=skip_specials))

    def _frame(self) -> tuple[list[int], list[int]]:
        bare = self._rust.encode("a", add_special_tokens=False).ids
        framed = self._rust.encode("a").ids
        for head in range(len(framed) - len(bare) + 1):
            if framed[head : head + len(bare)] == bare:
                return framed[:head], framed[head + len(bare) :]
        return [], []  # it marks no ends, or changes the text itself

    def _lost(self, encoding: tokenizers.Encoding) -> int:
        return sum(len(piece.ids) - self._specials for piece in encoding.overflowing)
