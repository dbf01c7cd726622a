"""From texts to vectors and hits: the one place where tokeniser, queue, engine, index and monitor meet."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from embedship.bundle import Pipeline as Model
from embedship.codes import Vectors, normalise
from embedship.errors import UsageError
from embedship.monitor.ranking import K
from embedship.monitor.watch import Watch
from embedship.serve.admission import Admission
from embedship.serve.errors import Invalid, NoIndex, TooLong
from embedship.serve.fusion import Mode
from embedship.serve.index.chunks import split_of
from embedship.serve.keyword import UnknownField
from embedship.serve.lanes import Lane
from embedship.serve.metrics import Metrics
from embedship.serve.shelf import NEAREST, Found, How
from embedship.serve.visit import NOW, Phase, mark
from embedship.serve.workers import Workers
from embedship.tokens import Tokenizer, Tokens

if TYPE_CHECKING:
    from tokenizers import Encoding

    from embedship.serve.candidate import Candidate
    from embedship.serve.documents import Split
    from embedship.serve.index.manifest import IndexManifest
    from embedship.serve.shelf import Shelf

Got = TypeVar("Got")

# Requests up to this size are tokenised on the event loop, in less than a millisecond, and go first. A larger one is
# bulk, and is tokenised in a thread: `tokenizers` gives up the GIL.
SMALL_CHARACTERS = 2_000
SMALL_TOKENS = SMALL_CHARACTERS // 4  # where they are tokens already


@dataclass(frozen=True, slots=True)
class Encoded:
    """Vectors, and the account of the tokens they cost."""

    vectors: Vectors
    lengths: list[int]  # tokens of each text
    cut: list[int]  # tokens each text lost

    @property
    def tokens(self) -> int:
        return sum(self.lengths)

    @property
    def truncated(self) -> int:
        return len(self.cut) - self.cut.count(0)


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer to a search: one Found, with a row a query."""

    found: Found
    encoded: Encoded


class Pipeline:
    """Used from the event loop. Raises RequestErrors only."""

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        admission: Admission,
        workers: Workers,
        shelf: Shelf | None,
        watch: Watch,
        metrics: Metrics,
        candidate: Candidate | None = None,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._admission = admission
        self._workers = workers
        self._shelf = shelf
        self._watch = watch
        self._metrics = metrics
        self._candidate = candidate
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="tokens")

    async def embed(
        self, texts: Sequence[str], prompt_name: str | None, truncate: bool = True, lane: Lane | None = None
    ) -> Encoded:
        """Encode texts. Those with the model's prompt "query" are shown to the monitor, as searches are."""
        encoded = await self._encode(texts, self.prompt(prompt_name), truncate, lane)
        if prompt_name == "query":
            self._watch.observer.saw(encoded.vectors, None, texts)
        return encoded

    async def documents(self, texts: Sequence[str], prompt_name: str | None) -> Encoded:
        """Encode what is to be found by searches: behind them, as unit vectors, and unseen by the monitor."""
        encoded = await self._encode(texts, self.prompt(prompt_name), lane=Lane.BULK)
        return encoded if self._model.normalised else replace(encoded, vectors=normalise(encoded.vectors))

    def split_of(self, index: IndexManifest) -> Split | None:
        """What cuts documents as this model's index was cut; None where they stay whole."""
        return split_of(self._tokenizer, self._model, index.chunking, index.with_title)

    async def embed_ids(self, ids: list[list[int]], lane: Lane | None = None) -> Encoded:
        """Encode texts that are this tokenizer's ids already, special tokens included. No prompt is put before them."""
        self._check_ids(ids)
        tokens = Tokens(ids, [0] * len(ids))
        lane = lane or (Lane.INTERACTIVE if sum(tokens.lengths) <= SMALL_TOKENS else Lane.BULK)
        with self._admission.enter(len(ids), lane) as permit:
            _tokenised(tokens)
            vectors = await self._workers.encode(permit, tokens, lane)
        return Encoded(vectors, tokens.lengths, tokens.cut)

    async def search(
        self,
        queries: Sequence[str],
        k: int,
        lane: Lane | None = None,
        how: How = NEAREST,
    ) -> Answered:
        """Encode queries with the index's own query prompt, find k documents for each, and tell the monitor.

        A keyword search has no vectors to show to the monitor, and costs no tokens.
        """
        began = time.perf_counter()
        shelf, feedback = self.shelf, self._watch.feedback
        how = how._replace(texts=queries)
        if how.mode is Mode.KEYWORD:
            encoded = Encoded(np.empty((0, self._model.dimension), dtype=np.float32), [], [])
            with self._admission.enter(len(queries), lane or Lane.INTERACTIVE, paced=False):
                found = await self._found(None, k, how)
        else:
            encoded = await self._encode(queries, shelf.prompt, lane=lane)
            found = await self._found(encoded.vectors, k, how)
            self._watch.observer.saw(encoded.vectors, found.nearest, queries, found.exact)
        self._metrics.search_seconds.observe(found.seconds)
        if self._candidate:
            self._candidate.offer(queries, found, how, time.perf_counter() - began)
        assert feedback is not None, "whoever has an index takes feedback"
        if visit := NOW.get():
            feedback.answers.keep(visit.id, found.rows[:, :K], queries if feedback.keeps_texts else None)
        return Answered(found, encoded)

    async def _found(self, vectors: Vectors | None, k: int, how: How) -> Found:
        try:
            found = await self.shelf.search(vectors, k, how)
            mark(Phase.SEARCH)
            return found
        except UnknownField as error:
            raise Invalid(f"{error}.", "filter") from None
        except UsageError as error:
            raise Invalid(f"{error}.", "effort") from None

    async def probe(self, query: str) -> list[int]:
        """The K best rows of a query, found as a user's is, but behind the users: at bulk priority, counted nowhere."""
        shelf = self.shelf
        encoded = await self._encode([query], shelf.prompt, lane=Lane.BULK, counted=False)
        found = await shelf.search(encoded.vectors, K)
        mark(Phase.SEARCH)
        best: list[int] = found.rows[0, :K].tolist()
        return best

    @property
    def shelf(self) -> Shelf:
        if self._shelf is None:
            raise NoIndex("This server holds no index: start it with `embedship serve BUNDLE --index INDEX`.")
        return self._shelf

    def prompt(self, name: str | None) -> str:
        prompts = self._model.prompts
        if name is not None and name not in prompts:
            known = ", ".join(sorted(prompts)) or "none"
            raise Invalid(f"This model has no prompt named {name!r}; it has: {known}.", "prompt_name")
        return self._tokenizer.prompt(name)

    def close(self) -> None:
        self._threads.shutdown()

    async def _encode(
        self, texts: Sequence[str], prompt: str, truncate: bool = True, lane: Lane | None = None, counted: bool = True
    ) -> Encoded:
        small = sum(map(len, texts)) <= SMALL_CHARACTERS
        lane = lane or (Lane.INTERACTIVE if small else Lane.BULK)
        with self._admission.enter(len(texts), lane) as permit:
            began = time.perf_counter()
            tokens = self._tokenizer(texts, prompt) if small else await self._tokens(texts, prompt)
            ended = time.perf_counter()
            _tokenised(tokens, ended)
            if counted:
                self._metrics.tokenise_seconds.observe(ended - began)
            self._refuse_nothing(tokens)
            truncated = self._truncated(tokens, truncate)
            vectors = await self._workers.encode(permit, tokens, lane, counted=counted)
        if counted:
            self._metrics.truncated.inc(truncated)
        return Encoded(vectors, tokens.lengths, tokens.cut)

    async def pieces(
        self, texts: Sequence[str], prompt_name: str | None, specials: bool, lane: Lane | None = None
    ) -> list[Encoding]:
        """The tokens of each text, with their places in it."""
        work = partial(self._tokenizer.pieces, texts, self.prompt(prompt_name), specials)
        return await self._aside(work, len(texts), sum(map(len, texts)) <= SMALL_CHARACTERS, lane)

    async def decode(self, ids: list[list[int]], skip_specials: bool, lane: Lane | None = None) -> list[str]:
        self._check_known(ids, "ids")
        work = partial(self._tokenizer.decode, ids, skip_specials)
        return await self._aside(work, len(ids), sum(map(len, ids)) <= SMALL_TOKENS, lane)

    async def _aside(self, work: Callable[[], Got], texts: int, small: bool, lane: Lane | None) -> Got:
        """Work for the tokeniser alone, in its threads, by the same permits as all other work: they are its queue."""
        with self._admission.enter(texts, lane or (Lane.INTERACTIVE if small else Lane.BULK), paced=False):
            done = await asyncio.get_running_loop().run_in_executor(self._threads, work)
        mark(Phase.TOKENISE)
        return done

    def _check_ids(self, ids: list[list[int]]) -> None:
        self._check_known(ids, "input")
        head, tail = self._tokenizer.frame
        for place, row in enumerate(ids):
            if len(row) > (most := self._model.max_tokens):
                raise TooLong(f"Text {place} has {len(row)} token ids and the model reads {most}: shorten it.", "input")
            if not row or row[: len(head)] != head or row[len(row) - len(tail) :] != tail:
                raise Invalid(
                    f"Text {place}: the ids do not begin with {head} and end with {tail}, as every text of this model "
                    "does; POST /tokenize gives whole ones.",
                    "input",
                )

    def _check_known(self, ids: list[list[int]], field: str) -> None:
        size = self._tokenizer.size
        for place, row in enumerate(ids):
            if row and not 0 <= min(row) <= max(row) < size:
                raise Invalid(f"Text {place}: this model's ids are 0 to {size - 1}.", field)

    async def _tokens(self, texts: Sequence[str], prompt: str) -> Tokens:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._tokenizer, texts, prompt)

    def _refuse_nothing(self, tokens: Tokens) -> None:
        """A model without special tokens makes none of an empty text, and has no vector for it."""
        if [] in tokens.ids:
            raise Invalid(f"Text {tokens.ids.index([])} is empty for this model: leave it out.", "input")

    def _truncated(self, tokens: Tokens, allowed: bool) -> int:
        """How many texts were cut; refuses them when the client does not want that."""
        truncated = len(tokens) - tokens.cut.count(0)
        if truncated and not allowed:
            worst = max(range(len(tokens)), key=tokens.cut.__getitem__)
            limit = self._model.max_tokens
            raise TooLong(
                f"Text {worst} has {limit + tokens.cut[worst]} tokens and the model reads {limit}: shorten it, or let "
                "it be cut with truncate=true.",
                "inputs",
            )
        return truncated


def _tokenised(tokens: Tokens, ended: float | None = None) -> None:
    """Note it in the request that is answered here, if one is."""
    if visit := NOW.get():
        visit.mark(Phase.TOKENISE, ended)
        visit.lengths = tokens.lengths
