"""Runs one model for requests: returns one vector per text, or one score per pair for a re-ranker.

This module connects the tokeniser, the permits and the queue. The callers decide what to do with the vectors.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from embedship.bundle import ModelSpec as Model
from embedship.bundle import Task
from embedship.codes import Vectors
from embedship.serve import interruption
from embedship.serve.batching.admission import AdmissionController, QueuePermit
from embedship.serve.batching.executor import BatchExecutor
from embedship.serve.errors import Invalid, TooLong
from embedship.serve.telemetry.metrics import ModelMetrics
from embedship.serve.telemetry.request_context import Priority, RequestPhase, current_request, end_phase
from embedship.tokens import Text, TokenBatch, Tokenizer, characters, slices

if TYPE_CHECKING:
    from tokenizers import Encoding

ResultT = TypeVar("ResultT")
Item = TypeVar("Item")

# Requests up to this size are tokenised on the event loop, in less than a millisecond, and have priority. A larger
# request is bulk work and is tokenised in a thread, because `tokenizers` releases the GIL. A text costs more than its
# own characters: the prompt before it also counts, and its special tokens count as 8 characters.
SMALL_CHARACTERS = 2_000
_SPECIALS_CHARACTERS = 8
SMALL_TOKENS = SMALL_CHARACTERS // 4  # the same limit for requests that send token ids


@dataclass(frozen=True, slots=True)
class EncodedTexts:
    """The vectors of a request's texts, and the token counts."""

    vectors: Vectors
    lengths: list[int]  # tokens of each text
    cut: list[int]  # tokens that each text lost by truncation

    @property
    def tokens(self) -> int:
        return sum(self.lengths)

    @property
    def truncated(self) -> int:
        """The number of texts that were truncated."""
        return len(self.cut) - self.cut.count(0)


class InferenceClient:
    """Tokenises and encodes the texts of requests. Use it from the event loop. Raises RequestErrors only."""

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        admission: AdmissionController,
        workers: BatchExecutor,
        counts: ModelMetrics,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.admission = admission
        self.workers = workers
        self._counts = counts
        self._item_name, self._field = ("Pair", "texts") if model.task is Task.RERANK else ("Text", "inputs")
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="tokens")

    async def encode(
        self,
        texts: Sequence[Text],
        prompt: str = "",
        truncate: bool = True,
        lane: Priority | None = None,
        counted: bool = True,
        permit: QueuePermit | None = None,
    ) -> EncodedTexts:
        """Return (n, dim) float32 rows in the order of `texts`, with `prompt` put before each text.

        If the caller passes a `permit` from `enter`, no other permit is acquired, and the caller releases it.
        """
        small = _is_small(texts, prompt)
        lane = lane or (Priority.INTERACTIVE if small else Priority.BULK)
        permit_context: AbstractContextManager[QueuePermit] = (
            nullcontext(permit) if permit else self.admission.acquire(len(texts), lane)
        )
        with permit_context as own_permit:
            started = time.perf_counter()
            tokens = (
                self.tokenizer(texts, prompt) if small else await self._tokenize_in_thread(texts, prompt, own_permit)
            )
            ended = time.perf_counter()
            _record_tokens(tokens, ended)
            if counted:
                self._counts.tokenise_seconds.observe(ended - started)
            self._require_tokens(tokens)
            truncated = self._count_truncated(tokens, truncate)
            vectors = await self.workers.encode(own_permit, tokens, lane, counted=counted)
        if counted:
            self._counts.truncated.inc(truncated)
        return EncodedTexts(vectors, tokens.lengths, tokens.cut)

    def enter(self, texts: Sequence[str], prompt: str = "", lane: Priority | None = None) -> QueuePermit:
        """Return the permit that `encode` would acquire, for a caller that does more work on the same texts."""
        lane = lane or (Priority.INTERACTIVE if _is_small(texts, prompt) else Priority.BULK)
        return self.admission.acquire(len(texts), lane)

    async def encode_token_ids(self, ids: list[list[int]], lane: Priority | None = None) -> EncodedTexts:
        """Encode texts given as token ids of this tokeniser, special tokens included. No prompt is put before them."""
        self._check_ids(ids)
        tokens = TokenBatch(ids, [0] * len(ids))
        lane = lane or (Priority.INTERACTIVE if sum(tokens.lengths) <= SMALL_TOKENS else Priority.BULK)
        with self.admission.acquire(len(ids), lane) as permit:
            _record_tokens(tokens)
            vectors = await self.workers.encode(permit, tokens, lane)
        return EncodedTexts(vectors, tokens.lengths, tokens.cut)

    async def tokenize(
        self,
        texts: Sequence[str],
        prompt_name: str | None,
        specials: bool,
        convert: Callable[[Encoding], ResultT],
        lane: Priority | None = None,
    ) -> list[ResultT]:
        """Return `convert` of the tokens of each text, with their positions in the text.

        An encoding also holds the truncated tokens, about 100 bytes each, so only converted ones are kept.
        """
        prompt = self.prompt(prompt_name)

        def tokenize(part: Sequence[str]) -> list[ResultT]:
            return [convert(each) for each in self.tokenizer.tokenize(part, prompt, specials)]

        work = partial(_run_in_slices, tokenize, texts)
        return await self._run_tokenizer(work, len(texts), _is_small(texts, prompt), lane)

    async def decode(self, ids: list[list[int]], skip_specials: bool, lane: Priority | None = None) -> list[str]:
        """Return the text of each row of token ids. Raises Invalid for ids that the tokeniser does not have."""
        self._check_known(ids, "ids")
        work = partial(_run_in_slices, partial(self.tokenizer.decode, skip_specials=skip_specials), ids)
        return await self._run_tokenizer(work, len(ids), sum(map(len, ids)) <= SMALL_TOKENS, lane)

    def prompt(self, name: str | None) -> str:
        """Return the text of a prompt (None: the default prompt of the model). Raises Invalid for an unknown name."""
        prompts = self.model.prompts
        if name is not None and name not in prompts:
            known = ", ".join(sorted(prompts)) or "none"
            raise Invalid(f"This model has no prompt named {name!r}; it has: {known}.", "prompt_name")
        return self.tokenizer.prompt(name)

    def close(self) -> None:
        self._threads.shutdown()

    async def _run_tokenizer(
        self, work: Callable[[], ResultT], texts: int, small: bool, lane: Priority | None
    ) -> ResultT:
        """Run work that needs only the tokeniser in the tokeniser threads.

        It also needs a permit, because the permits limit the queue of these threads.
        """
        with self.admission.acquire(
            texts, lane or (Priority.INTERACTIVE if small else Priority.BULK), uses_model=False
        ) as permit:
            done = await interruption.on_thread(self._threads, work, permit)
        end_phase(RequestPhase.TOKENISE)
        return done

    def _check_ids(self, ids: list[list[int]]) -> None:
        self._check_known(ids, "input")
        head, tail = self.tokenizer.special_tokens
        for place, row in enumerate(ids):
            if len(row) > (most := self.model.max_tokens):
                raise TooLong(
                    f"Text {place} has {len(row)} token ids and the model reads at most {most}: shorten it.", "input"
                )
            if not row or row[: len(head)] != head or row[len(row) - len(tail) :] != tail:
                raise Invalid(
                    f"Text {place}: the ids do not begin with {head} and end with {tail}, as every text of this model "
                    "does. POST /tokenize returns complete ids.",
                    "input",
                )

    def _check_known(self, ids: list[list[int]], field: str) -> None:
        size = self.tokenizer.size
        for place, row in enumerate(ids):
            if row and not 0 <= min(row) <= max(row) < size:
                raise Invalid(f"Text {place}: the ids of this model are 0 to {size - 1}.", field)

    async def _tokenize_in_thread(self, texts: Sequence[Text], prompt: str, permit: QueuePermit) -> TokenBatch:
        def work() -> TokenBatch:
            parts = _run_in_slices(lambda part: [self.tokenizer(part, prompt)], texts)
            return TokenBatch(
                [row for part in parts for row in part.ids],
                [cut for part in parts for cut in part.cut],
                [turn for part in parts for turn in part.turns],
            )

        return await interruption.on_thread(self._threads, work, permit)

    def _require_tokens(self, tokens: TokenBatch) -> None:
        """Raise Invalid if a text has no tokens.

        A model without special tokens makes no tokens from an empty text, and a vector needs at least one token.
        """
        if [] in tokens.ids:
            raise Invalid(f"Text {tokens.ids.index([])} is empty for this model: leave it out.", "input")

    def _count_truncated(self, tokens: TokenBatch, allowed: bool) -> int:
        """Return how many texts were truncated. Raise TooLong if there are any and the client does not allow it."""
        truncated = len(tokens) - tokens.cut.count(0)
        if truncated and not allowed:
            worst = max(range(len(tokens)), key=tokens.cut.__getitem__)
            limit = self.model.max_tokens
            raise TooLong(
                f"{self._item_name} {worst} has {limit + tokens.cut[worst]} tokens and the model reads {limit}: "
                "shorten it, or send truncate=true to have it truncated.",
                self._field,
            )
        return truncated


def _is_small(texts: Sequence[Text], prompt: str) -> bool:
    return sum(map(characters, texts)) + len(texts) * (len(prompt) + _SPECIALS_CHARACTERS) <= SMALL_CHARACTERS


def _run_in_slices(work: Callable[[Sequence[Item]], Sequence[ResultT]], items: Sequence[Item]) -> list[ResultT]:
    """Return the results of `work` for all items: texts, pairs, or rows of token ids.

    It runs on one slice at a time, so that it can be interrupted between them.
    """
    results: list[ResultT] = []
    for part in slices(items):
        interruption.check()
        results += work(part)
    return results


def _record_tokens(tokens: TokenBatch, ended: float | None = None) -> None:
    """Record the end of tokenisation and the text lengths in the current request, if there is one."""
    if context := current_request.get():
        context.mark(RequestPhase.TOKENISE, ended)
        # A search with re-ranking tokenises its queries first, then the pairs.
        context.lengths = [*context.lengths, *tokens.lengths] if context.lengths else tokens.lengths
