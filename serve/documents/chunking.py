"""Long documents -> chunks that the model reads whole, cut with its own tokenizer. Pure.

A chunk is a span of characters: `text[start:end]` is what is embedded and what a hit shows. Cuts fall between words
where there are any, else between tokens (Chinese, Japanese, long identifiers), and between a character and its
combining marks only where these alone are longer than a chunk.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from embedship.bundle import ManifestRecord, ModelSpec
from embedship.errors import UsageError
from embedship.serve.documents.store import Chunk, Document, Split
from embedship.tokens import Tokenizer

# Tokens of its own that a chunk has at least, beside prompt, title and special tokens.
LEAST = 8

_JOINERS = {"\u200d", "\ufe0e", "\ufe0f"}  # zero-width joiner and the variation selectors, as emoji use them


class Chunking(ManifestRecord, frozen=True):
    """`tokens`: what a chunk has at most, prompt and special tokens included. Neighbours share at most `overlap`."""

    tokens: int
    overlap: int = 0


class TextSpan(NamedTuple):
    """Characters of the document's text, the end excluded."""

    start: int
    end: int


def chunker_for_index(
    tokenizer: Tokenizer, model: ModelSpec, chunking: Chunking | None, with_title: bool
) -> Split | None:
    """What cuts the documents of an index; None where they stay whole. Raises UsageError for impossible sizes."""
    if chunking is None:
        return None
    return splitter(tokenizer, tokenizer.prompt(model.document_prompt), chunking, model.max_tokens, with_title)


def splitter(tokenizer: Tokenizer, prompt: str, chunking: Chunking, max_tokens: int, with_title: bool = False) -> Split:
    """What cuts documents for this model, whose chunks are given `prompt`, and their title where `with_title` says so.

    Raises UsageError for impossible sizes.
    """
    fixed = _count(tokenizer, [""], prompt)[0]
    if not fixed + LEAST <= chunking.tokens <= max_tokens:
        raise UsageError(
            f"--chunk is {chunking.tokens}; this model reads at most {max_tokens} tokens, and prompt and special "
            f"tokens take {fixed} of them: give {fixed + LEAST} to {max_tokens}"
        )
    most = (chunking.tokens - fixed) // 2
    if not 0 <= chunking.overlap <= most:
        raise UsageError(
            f"--overlap is {chunking.overlap}; of {chunking.tokens} tokens a chunk at most {most} can be shared with "
            "the next, half of what prompt and special tokens leave"
        )

    def split(documents: Sequence[Document]) -> list[list[Document]]:
        heads = [title_prefix(document) if with_title else "" for document in documents]
        spans = cut([document.text for document in documents], tokenizer, prompt, chunking, heads)
        return [_chunks(*each) for each in zip(documents, spans, strict=True)]

    return split


def title_prefix(document: Document) -> str:
    """What stands before the text where titles are embedded, too: joined by a space, as BEIR and MTEB do."""
    return f"{document.title} " if document.title else ""


def _chunks(document: Document, spans: Sequence[TextSpan]) -> list[Document]:
    return [
        msgspec.structs.replace(document, text=document.text[start:end], chunk=Chunk(number, start, end))
        for number, (start, end) in enumerate(spans)
    ]


def cut(
    texts: Sequence[str], tokenizer: Tokenizer, prompt: str, chunking: Chunking, heads: Sequence[str] = ()
) -> list[list[TextSpan]]:
    """The spans of each text, in order, at least one each; a text that fits is one span of all of it.

    Embedded with `prompt` and its head (a title and a space, or nothing) before it, no chunk has more than
    `chunking.tokens` tokens, special tokens included: each was counted as the model will read it. Every character
    that is no space lies in a chunk. Raises UsageError naming a head that leaves no room.
    """
    heads = heads or [""] * len(texts)
    whole = _count(tokenizer, [head + text for head, text in zip(heads, texts, strict=True)], prompt)
    long = [place for place, tokens in enumerate(whole) if tokens > chunking.tokens]
    spans = [[TextSpan(0, len(text))] for text in texts]
    for place, bounds in zip(long, tokenizer.offsets([texts[place] for place in long]), strict=True):
        one = _LongText(texts[place], bounds, heads[place], tokenizer, prompt, chunking)
        spans[place] = one.spans()
    return spans


def _count(tokenizer: Tokenizer, texts: Sequence[str], prompt: str) -> list[int]:
    tokens = tokenizer(texts, prompt)
    return [length + lost for length, lost in zip(tokens.lengths, tokens.cut, strict=True)]


class _LongText:
    """One text that is longer than a chunk; `bounds` are the characters of its tokens."""

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
        fixed = _count(tokenizer, [head], prompt)[0]
        self._room = chunking.tokens - fixed
        if self._room < LEAST:
            raise UsageError(
                f"the title {head[:60]!r} takes {fixed} of the {chunking.tokens} tokens of a chunk, prompt included: "
                "raise --chunk, shorten it, or leave out --with-title"
            )

    def spans(self) -> list[TextSpan]:
        """By token counts of the whole text first; where a piece alone has more tokens, with care and one by one."""
        spans = self._new(self._walk(lambda first, last: True))
        if max(self._counts(spans)) > self._chunking.tokens:
            spans = self._new(self._walk(self._fits))
        return spans

    def _new(self, walked: Iterable[TextSpan]) -> list[TextSpan]:
        """Those that hold more than spaces and what a neighbour holds."""
        spans: list[TextSpan] = []
        for span in walked:
            if spans and span.start <= spans[-1].start:
                spans.pop()
            if span.end > max(span.start, spans[-1].end if spans else 0):
                spans.append(span)
        return spans or [TextSpan(0, 0)]

    def _walk(self, fits: Callable[[int, int], bool]) -> Iterator[TextSpan]:
        """Chunk after chunk, from token `first` up to token `last`, the last excluded."""
        first, before = 0, 0  # `title_prefix`: where the chunk before ended
        while before < len(self._bounds):
            last = self._last(first, before, fits)
            if first < before and not fits(first, last):  # what is shared leaves no room for anything new
                first, last = before, self._last(before, before, fits)
            yield self._span(first, last)
            first, before = self._next(first, last), last

    def _last(self, first: int, before: int, fits: Callable[[int, int], bool]) -> int:
        """The end that takes in as much as there is room for, and something new; a word's end in the second half."""
        total = len(self._bounds)
        if total - first <= self._room and fits(first, total):
            return total
        least = self._aligned_from(max(first, before) + 1)
        most = min(first + self._room, total - 1)
        while most > least:
            last = self._edge(max(least, first + self._room // 2), most)
            if last > least and fits(first, last):
                return last
            most = last - 1
        return least

    def _aligned_from(self, token: int) -> int:
        while token < len(self._bounds) and not self._aligned(token):
            token += 1
        return token

    def _edge(self, least: int, most: int) -> int:
        """The last place for a cut: before a word, else between two characters as readers see them, else as they are
        stored."""
        for allowed in (self._begins_word, self._parts, self._aligned):
            for token in range(most, least - 1, -1):
                if allowed(token):
                    return token
        return least

    def _next(self, first: int, last: int) -> int:
        """The first token that is read again by the next chunk."""
        if last >= len(self._bounds):
            return last
        shared = range(max(first + 1, last - self._chunking.overlap), last)
        for allowed in (self._begins_word, self._parts):
            for token in shared:
                if allowed(token):
                    return token
        return last

    def _begins_word(self, token: int) -> bool:
        start = self._bounds[token][0]
        return self._parts(token) and (self._text[start - 1].isspace() or self._text[start].isspace())

    def _parts(self, token: int) -> bool:
        """Whether no mark or joiner of emoji holds together what lies on both sides."""
        if not self._aligned(token):
            return False
        start = self._bounds[token][0]
        here = self._text[start]
        return not (unicodedata.combining(here) or here in _JOINERS or self._text[start - 1] == "\u200d")

    def _aligned(self, token: int) -> bool:
        """Whether it begins a character: the byte tokens of one character all have its place."""
        before = max((end for _, end in self._bounds[max(0, token - 4) : token]), default=len(self._text))
        return before <= self._bounds[token][0] < len(self._text)

    def _span(self, first: int, last: int) -> TextSpan:
        """What no token was made of belongs to the chunk before it; spaces at the ends belong to none."""
        start = self._bounds[first][0] if first else 0
        end = self._bounds[last][0] if last < len(self._bounds) else len(self._text)
        piece = self._text[start:end]
        return TextSpan(start + len(piece) - len(piece.lstrip()), end - (len(piece) - len(piece.rstrip())))

    def _fits(self, first: int, last: int) -> bool:
        return self._counts([self._span(first, last)])[0] <= self._chunking.tokens

    def _counts(self, spans: Sequence[TextSpan]) -> list[int]:
        return _count(self._tokenizer, [self._head + self._text[start:end] for start, end in spans], self._prompt)
