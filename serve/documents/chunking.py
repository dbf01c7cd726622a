"""Chunking: splits long documents into chunks that fit into the model, with the model's own tokenizer. No I/O.

A chunk is a range of characters: `text[start:end]` is embedded and shown in hits. Texts are split between words if
possible, otherwise between tokens (Chinese, Japanese, long identifiers). A character is separated from its combining
marks only if the marks alone are longer than a chunk.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from embedship.bundle import ManifestRecord, ModelSpec
from embedship.errors import UsageError
from embedship.serve import interruption
from embedship.serve.documents.store import Chunk, Document, Split
from embedship.tokens import Tokenizer, slices

# Minimum number of tokens of a chunk's own text, in addition to prompt, title and special tokens.
MIN_TEXT_TOKENS = 8

_JOINERS = {"\u200d", "\ufe0e", "\ufe0f"}  # zero-width joiner and the variation selectors, as emoji use them


class Chunking(ManifestRecord, frozen=True):
    """Sizes of chunks, in tokens.

    `tokens`: maximum per chunk, including prompt and special tokens. `overlap`: maximum shared by neighbours.
    """

    tokens: int
    overlap: int = 0


class TextSpan(NamedTuple):
    """A range of characters of the document's text; `end` is exclusive."""

    start: int
    end: int


def chunker_for_index(
    tokenizer: Tokenizer, model: ModelSpec, chunking: Chunking | None, with_title: bool
) -> Split | None:
    """Return the chunker of an index, or None if documents are not split. Raises UsageError for impossible sizes."""
    if chunking is None:
        return None
    return make_splitter(tokenizer, tokenizer.prompt(model.document_prompt), chunking, model.max_tokens, with_title)


def make_splitter(
    tokenizer: Tokenizer, prompt: str, chunking: Chunking, max_tokens: int, with_title: bool = False
) -> Split:
    """Return a function that splits documents. Chunks are counted with `prompt`, and with their title if `with_title`.

    Raises UsageError for impossible sizes.
    """
    fixed = _count_tokens(tokenizer, [""], prompt)[0]
    if not fixed + MIN_TEXT_TOKENS <= chunking.tokens <= max_tokens:
        raise UsageError(
            f"--chunk is {chunking.tokens}; this model reads at most {max_tokens} tokens, and prompt and special "
            f"tokens take {fixed} of them: give {fixed + MIN_TEXT_TOKENS} to {max_tokens}"
        )
    max_overlap = (chunking.tokens - fixed) // 2
    if not 0 <= chunking.overlap <= max_overlap:
        raise UsageError(
            f"--overlap is {chunking.overlap}; with {chunking.tokens} tokens per chunk it can be at most "
            f"{max_overlap}, half of the tokens without prompt and special tokens"
        )

    def split(documents: Sequence[Document]) -> list[list[Document]]:
        heads = [title_prefix(document) if with_title else "" for document in documents]
        spans = find_spans([document.text for document in documents], tokenizer, prompt, chunking, heads)
        return [_chunks(*each) for each in zip(documents, spans, strict=True)]

    return split


def title_prefix(document: Document) -> str:
    """Return the title and a space, which precede the embedded text as in BEIR and MTEB; "" without a title."""
    return f"{document.title} " if document.title else ""


def _chunks(document: Document, spans: Sequence[TextSpan]) -> list[Document]:
    return [
        msgspec.structs.replace(document, text=document.text[start:end], chunk=Chunk(number, start, end))
        for number, (start, end) in enumerate(spans)
    ]


def find_spans(
    texts: Sequence[str], tokenizer: Tokenizer, prompt: str, chunking: Chunking, heads: Sequence[str] = ()
) -> list[list[TextSpan]]:
    """Return the spans of each text in order, at least one each. A text that fits into one chunk is a single span.

    No chunk has more than `chunking.tokens` tokens when it is embedded with `prompt`, its head (a title and a space, or
    nothing) and special tokens: every chunk is counted in the form that the model reads. Every character except white
    space is in a chunk. Raises UsageError, with the head, if a head is too long for any text to fit.
    """
    heads = heads or [""] * len(texts)
    counts = _count_tokens(tokenizer, [head + text for head, text in zip(heads, texts, strict=True)], prompt)
    too_long = [i for i, tokens in enumerate(counts) if tokens > chunking.tokens]
    spans = [[TextSpan(0, len(text))] for text in texts]
    bounds = (each for part in slices(texts[i] for i in too_long) for each in tokenizer.offsets(part))
    for i, each in zip(too_long, bounds, strict=True):
        interruption.check()
        spans[i] = _LongText(texts[i], each, heads[i], tokenizer, prompt, chunking).spans()
    return spans


def _count_tokens(tokenizer: Tokenizer, texts: Sequence[str], prompt: str) -> list[int]:
    counts: list[int] = []
    for part in slices(texts):
        interruption.check()
        tokens = tokenizer(part, prompt)
        counts += [length + cut_tokens for length, cut_tokens in zip(tokens.lengths, tokens.cut, strict=True)]
    return counts


class _LongText:
    """One text that is longer than a chunk. `bounds` contains the character range of each token."""

    def __init__(
        self,
        text: str,
        bounds: Sequence[tuple[int, int]],
        head: str,
        tokenizer: Tokenizer,
        prompt: str,
        chunking: Chunking,
    ) -> None:
        self._text = text
        self._bounds = bounds
        self._head = head
        self._tokenizer, self._prompt, self._chunking = tokenizer, prompt, chunking
        fixed = _count_tokens(tokenizer, [head], prompt)[0]
        self._max_tokens = chunking.tokens - fixed
        if self._max_tokens < MIN_TEXT_TOKENS:
            raise UsageError(
                f"the title {head[:60]!r} takes {fixed} of the {chunking.tokens} tokens of a chunk, including the "
                "prompt: increase --chunk, shorten the title, or remove --with-title"
            )

    def spans(self) -> list[TextSpan]:
        """Split by the token counts of the whole text. If a chunk alone has more tokens, count each chunk."""
        spans = self._without_redundant(self._walk(lambda first, last: True))
        if max(self._counts(spans)) > self._chunking.tokens:
            spans = self._without_redundant(self._walk(self._fits))
        return spans

    def _without_redundant(self, candidates: Iterable[TextSpan]) -> list[TextSpan]:
        """Drop spans that contain only white space or only text of a neighbour."""
        spans: list[TextSpan] = []
        for span in candidates:
            if spans and span.start <= spans[-1].start:
                spans.pop()
            if span.end > max(span.start, spans[-1].end if spans else 0):
                spans.append(span)
        return spans or [TextSpan(0, 0)]

    def _walk(self, fits: Callable[[int, int], bool]) -> Iterator[TextSpan]:
        """Yield one chunk after another, from token `first` to token `last` (exclusive)."""
        first, previous_end = 0, 0
        while previous_end < len(self._bounds):
            last = self._last(first, previous_end, fits)
            if first < previous_end and not fits(first, last):  # the overlap leaves no space for new text: drop it
                first, last = previous_end, self._last(previous_end, previous_end, fits)
            yield self._span(first, last)
            first, previous_end = self._next(first, last), last

    def _last(self, first: int, previous_end: int, fits: Callable[[int, int], bool]) -> int:
        """Return the largest end that fits and adds new text, preferably at a word boundary in the second half."""
        total = len(self._bounds)
        if total - first <= self._max_tokens and fits(first, total):
            return total
        least = self._next_aligned(max(first, previous_end) + 1)
        most = min(first + self._max_tokens, total - 1)
        while most > least:
            last = self._best_boundary(max(least, first + self._max_tokens // 2), most)
            if last > least and fits(first, last):
                return last
            most = last - 1
        return least

    def _next_aligned(self, token: int) -> int:
        while token < len(self._bounds) and not self._aligned(token):
            token += 1
        return token

    def _best_boundary(self, least: int, most: int) -> int:
        """Return the last boundary: before a word, else between visible characters, else between code points."""
        for allowed in (self._begins_word, self._separable, self._aligned):
            for token in range(most, least - 1, -1):
                if allowed(token):
                    return token
        return least

    def _next(self, first: int, last: int) -> int:
        """Return the first token of the next chunk, which may repeat up to `overlap` tokens."""
        if last >= len(self._bounds):
            return last
        shared = range(max(first + 1, last - self._chunking.overlap), last)
        for allowed in (self._begins_word, self._separable):
            for token in shared:
                if allowed(token):
                    return token
        return last

    def _begins_word(self, token: int) -> bool:
        start = self._bounds[token][0]
        return self._separable(token) and (self._text[start - 1].isspace() or self._text[start].isspace())

    def _separable(self, token: int) -> bool:
        """Whether no combining mark or emoji joiner connects the characters on both sides."""
        if not self._aligned(token):
            return False
        start = self._bounds[token][0]
        character = self._text[start]
        return not (unicodedata.combining(character) or character in _JOINERS or self._text[start - 1] == "\u200d")

    def _aligned(self, token: int) -> bool:
        """Whether the token begins a character: all byte tokens of one character have the bounds of the character."""
        before = max((end for _, end in self._bounds[max(0, token - 4) : token]), default=len(self._text))
        return before <= self._bounds[token][0] < len(self._text)

    def _span(self, first: int, last: int) -> TextSpan:
        """Return the span without white space at its ends. Characters without a token belong to the preceding chunk."""
        start = self._bounds[first][0] if first else 0
        end = self._bounds[last][0] if last < len(self._bounds) else len(self._text)
        piece = self._text[start:end]
        return TextSpan(start + len(piece) - len(piece.lstrip()), end - (len(piece) - len(piece.rstrip())))

    def _fits(self, first: int, last: int) -> bool:
        return self._counts([self._span(first, last)])[0] <= self._chunking.tokens

    def _counts(self, spans: Sequence[TextSpan]) -> list[int]:
        return _count_tokens(
            self._tokenizer, [self._head + self._text[start:end] for start, end in spans], self._prompt
        )
