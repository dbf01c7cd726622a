"""One model as requests meet it: texts in, a row for each out. Of a re-ranker pairs in, a score for each out.

Here tokeniser, permits and queue meet; what is done with the rows is for others.
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
from embedship.tokens import Text, TokenBatch, Tokenizer

if TYPE_CHECKING:
    from tokenizers import Encoding

Got = TypeVar("Got")
Item = TypeVar("Item")

# Requests up to this size are tokenised on the event loop, in less than a millisecond, and go first. A larger one is
# bulk, and is tokenised in a thread: `tokenizers` gives up the GIL. A text costs more than its characters: the prompt
# before it, and its special tokens, for which 8 characters are counted.
SMALL_CHARACTERS = 2_000
_SPECIALS_CHARACTERS = 8
SMALL_TOKENS = SMALL_CHARACTERS // 4  # where they are tokens already

# Texts that are tokenised in one call: a call cannot be interrupted, so that a request with many texts makes several.
_SLICE = 64


@dataclass(frozen=True, slots=True)
class EncodedTexts:
    """Rows, and the account of the tokens they cost."""

    vectors: Vectors
    lengths: list[int]  # tokens of each text
    cut: list[int]  # tokens each text lost

    @property
    def tokens(self) -> int:
        return sum(self.lengths)

    @property
    def truncated(self) -> int:
        return len(self.cut) - self.cut.count(0)


class InferenceClient:
    """Used from the event loop. Raises RequestErrors only."""

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
        self._what, self._field = ("Pair", "texts") if model.task is Task.RERANK else ("Text", "inputs")
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
        """(n, dim) float32 rows in the order of texts, `prompt` put before each.

        With a `permit` from `acquire`, no other is taken, and it is the caller's to give back.
        """
        small = _small(texts, prompt)
        lane = lane or (Priority.INTERACTIVE if small else Priority.BULK)
        taken: AbstractContextManager[QueuePermit] = (
            nullcontext(permit) if permit else self.admission.acquire(len(texts), lane)
        )
        with taken as held:
            began = time.perf_counter()
            tokens = self.tokenizer(texts, prompt) if small else await self._tokens(texts, prompt, held)
            ended = time.perf_counter()
            _tokenised(tokens, ended)
            if counted:
                self._counts.tokenise_seconds.observe(ended - began)
            self._refuse_nothing(tokens)
            truncated = self._truncated(tokens, truncate)
            vectors = await self.workers.encode(held, tokens, lane, counted=counted)
        if counted:
            self._counts.truncated.inc(truncated)
        return EncodedTexts(vectors, tokens.lengths, tokens.cut)

    def enter(self, texts: Sequence[str], prompt: str = "", lane: Priority | None = None) -> QueuePermit:
        """The permit that `encode` would take for these texts, for a caller who has more to do with them."""
        lane = lane or (Priority.INTERACTIVE if _small(texts, prompt) else Priority.BULK)
        return self.admission.acquire(len(texts), lane)

    async def encode_token_ids(self, ids: list[list[int]], lane: Priority | None = None) -> EncodedTexts:
        """Of texts that are this tokenizer's ids already, special tokens included. No prompt is put before them."""
        self._check_ids(ids)
        tokens = TokenBatch(ids, [0] * len(ids))
        lane = lane or (Priority.INTERACTIVE if sum(tokens.lengths) <= SMALL_TOKENS else Priority.BULK)
        with self.admission.acquire(len(ids), lane) as permit:
            _tokenised(tokens)
            vectors = await self.workers.encode(permit, tokens, lane)
        return EncodedTexts(vectors, tokens.lengths, tokens.cut)

    async def tokenize(
        self, texts: Sequence[str], prompt_name: str | None, specials: bool, lane: Priority | None = None
    ) -> list[Encoding]:
        """The tokens of each text, with their places in it."""
        prompt = self.prompt(prompt_name)
        work = partial(_sliced, partial(self.tokenizer.tokenize, prompt=prompt, specials=specials), texts)
        return await self._run_tokenizer(work, len(texts), _small(texts, prompt), lane)

    async def decode(self, ids: list[list[int]], skip_specials: bool, lane: Priority | None = None) -> list[str]:
        self._check_known(ids, "ids")
        work = partial(_sliced, partial(self.tokenizer.decode, skip_specials=skip_specials), ids)
        return await self._run_tokenizer(work, len(ids), sum(map(len, ids)) <= SMALL_TOKENS, lane)

    def prompt(self, name: str | None) -> str:
        prompts = self.model.prompts
        if name is not None and name not in prompts:
            known = ", ".join(sorted(prompts)) or "none"
            raise Invalid(f"This model has no prompt named {name!r}; it has: {known}.", "prompt_name")
        return self.tokenizer.prompt(name)

    def close(self) -> None:
        self._threads.shutdown()

    async def _run_tokenizer(self, work: Callable[[], Got], texts: int, small: bool, lane: Priority | None) -> Got:
        """Work for the tokeniser alone, in its threads, by the same permits as all other work: they are its queue."""
        with self.admission.acquire(
            texts, lane or (Priority.INTERACTIVE if small else Priority.BULK), paced=False
        ) as permit:
            done = await interruption.on_thread(self._threads, work, permit)
        end_phase(RequestPhase.TOKENISE)
        return done

    def _check_ids(self, ids: list[list[int]]) -> None:
        self._check_known(ids, "input")
        head, tail = self.tokenizer.special_tokens
        for place, row in enumerate(ids):
            if len(row) > (most := self.model.max_tokens):
                raise TooLong(f"Text {place} has {len(row)} token ids and the model reads {most}: shorten it.", "input")
            if not row or row[: len(head)] != head or row[len(row) - len(tail) :] != tail:
                raise Invalid(
                    f"Text {place}: the ids do not begin with {head} and end with {tail}, as every text of this model "
                    "does; POST /tokenize gives whole ones.",
                    "input",
                )

    def _check_known(self, ids: list[list[int]], field: str) -> None:
        size = self.tokenizer.size
        for place, row in enumerate(ids):
            if row and not 0 <= min(row) <= max(row) < size:
                raise Invalid(f"Text {place}: this model's ids are 0 to {size - 1}.", field)

    async def _tokens(self, texts: Sequence[Text], prompt: str, permit: QueuePermit) -> TokenBatch:
        def work() -> TokenBatch:
            parts = _sliced(lambda some: [self.tokenizer(some, prompt)], texts)
            return TokenBatch(
                [row for part in parts for row in part.ids],
                [lost for part in parts for lost in part.cut],
                [turn for part in parts for turn in part.turns],
            )

        return await interruption.on_thread(self._threads, work, permit)

    def _refuse_nothing(self, tokens: TokenBatch) -> None:
        """A model without special tokens makes none of an empty text, and has no vector for it."""
        if [] in tokens.ids:
            raise Invalid(f"Text {tokens.ids.index([])} is empty for this model: leave it out.", "input")

    def _truncated(self, tokens: TokenBatch, allowed: bool) -> int:
        """How many texts were cut; refuses them when the client does not want that."""
        truncated = len(tokens) - tokens.cut.count(0)
        if truncated and not allowed:
            worst = max(range(len(tokens)), key=tokens.cut.__getitem__)
            limit = self.model.max_tokens
            raise TooLong(
                f"{self._what} {worst} has {limit + tokens.cut[worst]} tokens and the model reads {limit}: shorten it, "
                "or let it be cut with truncate=true.",
                self._field,
            )
        return truncated


def _small(texts: Sequence[Text], prompt: str) -> bool:
    return sum(map(_characters, texts)) + len(texts) * (len(prompt) + _SPECIALS_CHARACTERS) <= SMALL_CHARACTERS


def _sliced(work: Callable[[Sequence[Item]], Sequence[Got]], items: Sequence[Item]) -> list[Got]:
    """The results for all items, worked on a slice at a time, for work that may be interrupted in between."""
    found: list[Got] = []
    for start in range(0, len(items), _SLICE):
        interruption.check()
        found += work(items[start : start + _SLICE])
    return found


def _characters(text: Text) -> int:
    return len(text) if isinstance(text, str) else len(text[0]) + len(text[1])


def _tokenised(tokens: TokenBatch, ended: float | None = None) -> None:
    """Note it in the request that is answered here, if one is."""
    if visit := current_request.get():
        visit.mark(RequestPhase.TOKENISE, ended)
        # Pairs that are re-ranked come after the queries that found them.
        visit.lengths = [*visit.lengths, *tokens.lengths] if visit.lengths else tokens.lengths
