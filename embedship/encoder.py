"""The local, synchronous door: texts in, vectors out; of a re-ranker pairs in, scores out.

Export and index use it; the server shares its parts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from embedship import variant_choice
from embedship.batches import BUDGET, BatchLayout, plan
from embedship.bundle import Bundle, ShapeCertificate, Task, Variant
from embedship.codes import Vectors, truncate_dimensions
from embedship.device import DeviceAddress, DeviceKind
from embedship.engine import open_engine
from embedship.engine.protocol import Engine
from embedship.errors import EngineError, UsageError
from embedship.tokens import Text, TokenBatch, Tokenizer

# Texts tokenised at once. The first chunk is small, for the streams wait for it alone; the last is enough to group by
# length, and few enough to bound memory and to show progress.
_FIRST, _CHUNK = 256, 4096


class Encoder:
    """Thread-safe. Holds one engine and one worker thread a stream.

    >>> encoder = Encoder.open("bundle")                    # doctest: +SKIP
    >>> encoder.encode(["a question", "another"]).shape     # doctest: +SKIP
    (2, 384)
    """

    def __init__(
        self, bundle: Bundle, variant: Variant, tokenizer: Tokenizer, engine: Engine, device: str = DeviceKind.CPU
    ) -> None:
        """`device` is the kind of what the engine computes on."""
        self.bundle = bundle
        self.variant = variant
        self.tokenizer = tokenizer
        self.engine = engine
        self.layout = BatchLayout(bundle.manifest.pipeline.pad_id, bundle.manifest.pipeline.max_tokens)
        self.device = str(device)
        self.shapes: ShapeCertificate | None = (
            None  # the certificate that the layout keeps to; None: none is known here
        )
        self._closed = False
        self._threads = ThreadPoolExecutor(engine.streams, thread_name_prefix="encoder")

    @classmethod
    def open(
        cls,
        bundle: Bundle | Path | str,
        variant: str | None = None,
        *,
        streams: int | None = None,
        device: str = "cpu",
        task: Task | None = Task.EMBED,
    ) -> Self:
        """Open a bundle and load one variant of it (default: the one `choice.variant` picks for this machine).

        `device` and `streams` are those of `open_engine`; a bundle of another `task` is refused, unless
        any will do (None). The variant's files are hashed first. Shapes of batches that are known to be wrong here are
        not used (shapes.py). Raises UsageError, UnsafeError, MissingExtra, EngineError, or GateError if too many are.
        """
        from embedship import shapes

        bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        if task:
            bundle.require(task)
        chosen = variant_choice.variant(bundle, variant)
        bundle.verify(bundle.files_of(chosen))
        engine = open_engine(bundle, chosen.name, streams, device)
        encoder = cls(bundle, chosen, Tokenizer.open(bundle), engine, DeviceAddress.parse(device).kind)
        try:
            shapes.recall(encoder)
        except BaseException:
            encoder.close()
            raise
        return encoder

    def restrict(self, layout: BatchLayout, certificate: ShapeCertificate) -> None:
        """From now on use no shapes but those of `layout`, which keeps to `certificate`."""
        self.layout, self.shapes = layout, certificate

    def encode(
        self,
        texts: Sequence[Text],
        *,
        prompt_name: str | None = None,
        dimensions: int | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> Vectors:
        """Return (n, dim) float32 rows in the order of texts; a re-ranker takes pairs and gives (n, 1) scores.

        `prompt_name` picks one of the model's prompts (None: its default), `dimensions` cuts and renormalises,
        `progress` is told how many texts have just been finished. Raises UsageError, EngineError.
        """
        if isinstance(texts, str):
            raise UsageError("encode takes a list of texts; a single text would be taken for a list of letters")
        pipeline = self.bundle.manifest.pipeline
        prompt = self.tokenizer.prompt(prompt_name)
        vectors = np.empty((len(texts), pipeline.dimension), dtype=np.float32)
        done = (lambda rows: progress(len(rows))) if progress else None
        with self._running() as submit:
            for start, end in _chunks(len(texts)):
                tokens = self.tokenizer(texts[start:end], prompt)
                require_tokens(tokens, start)
                submit(vectors[start:end], tokens, done)
        require_finite(vectors)
        return vectors if dimensions is None else truncate_dimensions(vectors, dimensions)

    def encode_tokens(self, tokens: TokenBatch, done: Callable[[Sequence[int]], object] | None = None) -> Vectors:
        """Return (n, dim) float32 rows of texts that are already tokens, NaN included if the engine gives it.

        `done` is told the rows that have just been finished, from the threads that finished them.
        """
        vectors = np.empty((len(tokens), self.bundle.manifest.pipeline.dimension), dtype=np.float32)
        with self._running() as submit:
            submit(vectors, tokens, done)
        return vectors

    @contextmanager
    def _running(self) -> Iterator[Callable[[Vectors, TokenBatch, Callable[[Sequence[int]], object] | None], None]]:
        """Yield what takes the next chunk and returns once the chunk before the last is done.

        So the caller tokenises one chunk while the streams compute another. Raises the first failure; no batch writes
        into the caller's rows after that.
        """
        chunks: deque[list[Future[None]]] = deque()

        def submit(out: Vectors, tokens: TokenBatch, done: Callable[[Sequence[int]], object] | None) -> None:
            work = partial(self._batch, out, tokens, done)
            chunks.append([self._threads.submit(work, rows) for rows in plan(tokens.lengths, BUDGET)])
            if len(chunks) > 2:
                _results(chunks.popleft())

        try:
            yield submit
            while chunks:
                _results(chunks.popleft())
        finally:
            left = [future for chunk in chunks for future in chunk if not future.cancel()]
            wait(left)

    def _batch(
        self, out: Vectors, tokens: TokenBatch, done: Callable[[Sequence[int]], object] | None, rows: list[int]
    ) -> None:
        turns = [tokens.turns[row] for row in rows] if tokens.turns else ()
        out[rows] = self.layout.encode(self.engine.encode, [tokens.ids[row] for row in rows], turns)
        if done:
            done(rows)

    def close(self) -> None:
        """May be called twice."""
        self._threads.shutdown()
        if not self._closed:
            self._closed = True
            self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def require_tokens(tokens: TokenBatch, first: int = 0) -> None:
    """Raise UsageError naming the first text, counted from `first`, that has no token.

    A model without special tokens makes none of an empty text, and has no vector for it.
    """
    if [] in tokens.ids:
        raise UsageError(f"text {first + tokens.ids.index([])} is empty for this model: leave it out")


def require_finite(vectors: Vectors, first: int = 0) -> None:
    """Raise EngineError naming the first row, counted from `first`, that holds NaN or infinity."""
    if not np.isfinite(vectors).all():
        row = first + int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
        raise EngineError(f"text {row} got NaN or infinity: check the bundle with `embedship verify`")


def _chunks(texts: int) -> Iterator[tuple[int, int]]:
    start, size = 0, _FIRST
    while start < texts:
        # A chunk that would leave less than itself takes the rest: a short last chunk pads more, and ends unevenly.
        end = texts if texts - start < 2 * size <= _CHUNK else min(start + size, texts)
        yield start, end
        start, size = end, min(2 * size, _CHUNK)


def _results(futures: list[Future[None]]) -> None:
    """Wait for all; if one failed, cancel those that have not begun, wait for the others, and raise."""
    try:
        for future in futures:
            future.result()
    except BaseException:
        wait([future for future in futures if not future.cancel()])
        raise
