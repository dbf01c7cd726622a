"""The engine's streams: a thread each takes the next batch, runs it, and hands the vectors back to the event loop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Condition, Thread

import numpy as np

from embedship.codes import Vectors
from embedship.engine import Engine
from embedship.errors import EngineError
from embedship.plan import pad
from embedship.serve.admission import Permit
from embedship.serve.errors import EngineFailed
from embedship.serve.lanes import PATIENCE, Lane, Lanes, Work
from embedship.serve.metrics import Metrics
from embedship.tokens import Tokens

logger = logging.getLogger(__name__)


class Ticket:
    """One request's claim on its vectors. Only the event loop writes to it."""

    __slots__ = ("born", "counted", "future", "missing", "vectors")

    def __init__(self, texts: int, dimension: int, future: asyncio.Future[Vectors], counted: bool = True) -> None:
        self.future = future
        self.counted = counted  # no for the monitor's own texts: the metrics are about users
        self.vectors: Vectors = np.empty((texts, dimension), dtype=np.float32)
        self.missing = texts
        self.born: float | None = time.perf_counter()  # None once its first batch has begun

    @property
    def gone(self) -> bool:
        return self.future.done()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a batch: vectors in its order, or the error."""

    works: Sequence[Work[Ticket]]
    vectors: Vectors | None
    error: EngineFailed | None
    began: float
    seconds: float


class Errands:
    """Single texts for one stream and no other. Not thread-safe: whoever shares it holds a lock.

    They wait until no request does, but for at most PATIENCE batches: a canary must sing under load, too.
    """

    def __init__(self) -> None:
        self._waiting: deque[Work[Ticket]] = deque()
        self._passed_over = 0

    def put(self, work: Work[Ticket]) -> None:
        self._waiting.append(work)

    def take(self, lanes: Lanes[Ticket]) -> list[Work[Ticket]]:
        """The stream's next batch: work from the lanes, or an errand; empty if there is neither."""
        if self._waiting and self._passed_over >= PATIENCE:
            return self._errand()
        if works := lanes.take():
            self._passed_over += bool(self._waiting)
            return works
        return self._errand() if self._waiting else []

    def _errand(self) -> list[Work[Ticket]]:
        self._passed_over = 0
        return [self._waiting.popleft()]


class Workers:
    """`encode` is called on the event loop; the threads touch nothing but the lanes, the engine and the outcome."""

    def __init__(self, engine: Engine, dimension: int, pad_id: int, lanes: Lanes[Ticket], metrics: Metrics) -> None:
        self._engine = engine
        self._dimension = dimension
        self._pad_id = pad_id
        self._lanes = lanes
        self._metrics = metrics
        self._changed = Condition()  # guards the lanes, the errands and `_closed`
        self._closed = False
        self.devices = tuple(f"cpu:{i}" for i in range(engine.streams))  # each stream is one
        self._errands = {device: Errands() for device in self.devices}
        self._threads = [
            Thread(target=self._run, args=(errands,), name=device, daemon=True)
            for device, errands in self._errands.items()
        ]
        for thread in self._threads:
            thread.start()

    @property
    def alive(self) -> bool:
        return all(thread.is_alive() for thread in self._threads)

    def waiting(self) -> int:
        return len(self._lanes)

    async def encode(self, permit: Permit, tokens: Tokens, lane: Lane, *, counted: bool = True) -> Vectors:
        """Return (n, dim) float32 rows in the order of tokens. Raises EngineFailed.

        When the caller is cancelled, its texts that are not yet in a batch are dropped before they cost anything.
        """
        assert permit.texts == len(tokens), "a permit admits exactly its own texts"
        ticket = Ticket(len(tokens), self._dimension, asyncio.get_running_loop().create_future(), counted)
        with self._changed:
            if self._closed:
                raise EngineFailed("The server is stopping.")
            self._lanes.put(lane, [Work(ticket, row, ids) for row, ids in enumerate(tokens.ids)])
            self._changed.notify(len(tokens))
        return await ticket.future

    async def encode_on(self, device: str, ids: list[int]) -> Vectors:
        """Return (1, dim) float32: one text, alone, on one of `devices`. Raises EngineFailed.

        Without a permit, for a queue full of requests says nothing about the device; one text a device at a time.
        """
        ticket = Ticket(1, self._dimension, asyncio.get_running_loop().create_future(), counted=False)
        with self._changed:
            if self._closed:
                raise EngineFailed("The server is stopping.")
            self._errands[device].put(Work(ticket, 0, ids))
            self._changed.notify_all()  # it has to be this stream that wakes
        return await ticket.future

    def close(self) -> None:
        """Finish the batches that run, and no others."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _run(self, errands: Errands) -> None:
        while works := self._next(errands):
            outcome = self._compute(works)
            try:
                works[0].owner.future.get_loop().call_soon_threadsafe(self._deliver, outcome)
            except RuntimeError:
                logger.warning("the event loop ended before a batch of %d texts did", len(works))

    def _next(self, errands: Errands) -> list[Work[Ticket]]:
        """Wait for work; nothing means the end."""
        with self._changed:
            while not self._closed:
                if works := errands.take(self._lanes):
                    return works
                self._changed.wait()
        return []

    def _compute(self, works: list[Work[Ticket]]) -> Outcome:
        began = time.perf_counter()
        vectors, error = None, None
        try:
            vectors = self._checked(self._engine.encode(pad([work.ids for work in works], self._pad_id)), len(works))
        except EngineError as failure:
            logger.error("%s", failure)
            error = EngineFailed("The engine failed on the batch of this request; sending it again may help.")
        except Exception:
            # Whatever it is, somebody waits for this batch, and this thread must live to take the next.
            logger.exception("a batch of %d texts failed", len(works))
            error = EngineFailed("The server failed on the batch of this request; its log says why.")
        return Outcome(works, vectors, error, began, time.perf_counter() - began)

    def _checked(self, vectors: Vectors, texts: int) -> Vectors:
        """JSON has no NaN, and a client could not tell a wrong vector from a right one."""
        if vectors.shape != (texts, self._dimension):
            raise EngineError(f"the engine returned {vectors.shape} for {texts} texts of {self._dimension} dimensions")
        if not np.isfinite(vectors).all():
            raise EngineError(f"the engine returned NaN or infinity in a batch of {texts}")
        return vectors

    def _deliver(self, outcome: Outcome) -> None:
        for place, work in enumerate(outcome.works):
            ticket = work.owner
            if ticket.gone:
                continue
            if outcome.vectors is None:
                ticket.future.set_exception(outcome.error or EngineFailed("The engine returned nothing."))
                continue
            ticket.vectors[work.row] = outcome.vectors[place]
            ticket.missing -= 1
            if not ticket.missing:
                ticket.future.set_result(ticket.vectors)
        self._count(outcome)

    def _count(self, outcome: Outcome) -> None:
        """The users' share of the batch; nothing of one that was all the monitor's."""
        works = [work for work in outcome.works if work.owner.counted]
        if not works:
            return
        lengths = [len(work.ids) for work in works]
        self._metrics.batches.observe(len(lengths))
        self._metrics.inference_seconds.observe(outcome.seconds)
        self._metrics.texts.inc(len(lengths))
        self._metrics.tokens.inc(sum(lengths))
        self._metrics.padded_tokens.inc(len(lengths) * max(len(work.ids) for work in outcome.works))
        for work in works:
            ticket = work.owner
            if ticket.born is not None:
                self._metrics.queue_seconds.observe(max(0.0, outcome.began - ticket.born))
                ticket.born = None
