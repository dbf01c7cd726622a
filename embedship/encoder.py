"""Encoder: the local, synchronous API. Returns one vector per text. A re-ranker returns one score per pair.

Export and indexing use it. The server uses its parts.
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

# Texts per chunk of tokenisation. The first chunk is small because the streams are idle until it is ready. The largest
# is big enough to group texts by length, and small enough to bound memory and to show progress.
_FIRST, _CHUNK = 256, 4096


class Encoder:
    """Encodes texts with one engine and one worker thread per stream. Thread-safe.

    >>> encoder = Encoder.open("bundle")                    # doctest: +SKIP
    >>> encoder.encode(["a question", "another"]).shape     # doctest: +SKIP
    (2, 384)
    """

    def __init__(
        self, bundle: Bundle, variant: Variant, tokenizer: Tokenizer, engine: Engine, device: str = DeviceKind.CPU
    ) -> None:
        """`device` is the kind of device that the engine runs on."""
        self.bundle = bundle
        self.variant = variant
        self.tokenizer = tokenizer
        self.engine = engine
        pipeline = bundle.manifest.pipeline
        self.layout = BatchLayout(pipeline.pad_id, pipeline.max_tokens, pools_prompts=pipeline.pools_prompts)
        self.device = str(device)
        # The shape certificate that `layout` follows; None if none is known here.
        self.shapes: ShapeCertificate | None = None
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
        """Open a bundle and load one variant (default: the one `variant_choice.variant` picks for this machine).

        `device` and `streams` are those of `open_engine`. A bundle for another `task` is rejected; None accepts any.
        The variant's files are hashed first. Batch shapes that are known to be wrong here are not used (see
        embedship.shapes). Raises UsageError, UnsafeError, MissingExtra and EngineError, or GateError if too many shapes
        are wrong.
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
            shapes.restrict_if_certified(encoder)
        except BaseException:
            encoder.close()
            raise
        return encoder

    def restrict(self, layout: BatchLayout, certificate: ShapeCertificate) -> None:
        """Use only the shapes of `layout` from now on. `certificate` says why."""
        self.layout, self.shapes = layout, certificate

    def encode(
        self,
        texts: Sequence[Text],
        *,
        prompt_name: str | None = None,
        dimensions: int | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> Vectors:
        """Return (n, dim) float32 rows in the order of texts. A re-ranker takes pairs and returns (n, 1) scores.

        `prompt_name` selects one of the model's prompts (None: its default). `dimensions` truncates and renormalises.
        `progress` is called with the number of texts just finished. Raises UsageError, EngineError.
        """
        if isinstance(texts, str):
            raise UsageError("encode takes a list of texts: put a single text into a list")
        pipeline = self.bundle.manifest.pipeline
        prompt = self.tokenizer.prompt(prompt_name)
        vectors = np.empty((len(texts), pipeline.dimension), dtype=np.float32)
        done = (lambda rows: progress(len(rows))) if progress else None
        with self._open_submission() as submit:
            for start, end in _chunks(len(texts)):
                tokens = self.tokenizer(texts[start:end], prompt)
                require_tokens(tokens, start)
                submit(vectors[start:end], tokens, done)
        require_finite(vectors)
        return vectors if dimensions is None else truncate_dimensions(vectors, dimensions)

    def encode_tokens(self, tokens: TokenBatch, done: Callable[[Sequence[int]], object] | None = None) -> Vectors:
        """Return (n, dim) float32 rows of tokenised texts, with NaN if the engine returns it.

        `done` is called with the rows just finished, by the threads that finished them.
        """
        vectors = np.empty((len(tokens), self.bundle.manifest.pipeline.dimension), dtype=np.float32)
        with self._open_submission() as submit:
            submit(vectors, tokens, done)
        return vectors

    @contextmanager
    def _open_submission(
        self,
    ) -> Iterator[Callable[[Vectors, TokenBatch, Callable[[Sequence[int]], object] | None], None]]:
        """Yield a function that submits a chunk and returns when the chunk before the last one is done.

        So the caller tokenises one chunk while the streams compute another. Raises the first failure. After that no
        batch writes into the caller's rows.
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
            unfinished = [future for chunk in chunks for future in chunk if not future.cancel()]
            wait(unfinished)

    def _batch(
        self, out: Vectors, tokens: TokenBatch, done: Callable[[Sequence[int]], object] | None, rows: list[int]
    ) -> None:
        turns = [tokens.turns[row] for row in rows] if tokens.turns else ()
        out[rows] = self.layout.encode(self.engine.encode, [tokens.ids[row] for row in rows], turns)
        if done:
            done(rows)

    def close(self) -> None:
        """Stop the threads and release the engine. May be called twice."""
        self._threads.shutdown()
        if not self._closed:
            self._closed = True
            self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def require_tokens(tokens: TokenBatch, first: int = 0) -> None:
    """Raise UsageError with the number of the first text, counted from `first`, that has no token.

    A model without special tokens makes none from an empty text, and has no vector for it.
    """
    if [] in tokens.ids:
        raise UsageError(f"text {first + tokens.ids.index([])} is empty for this model: leave it out")


def require_finite(vectors: Vectors, first: int = 0) -> None:
    """Raise EngineError with the number of the first row, counted from `first`, that contains NaN or infinity."""
    if not np.isfinite(vectors).all():
        row = first + int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
        raise EngineError(f"the vector of text {row} has NaN or infinity: check the bundle with `embedship verify`")


def _chunks(texts: int) -> Iterator[tuple[int, int]]:
    start, size = 0, _FIRST
    while start < texts:
        # If less than a whole chunk would remain, this chunk takes the rest, because a short last chunk has more
        # padding and leaves streams idle.
        end = texts if texts - start < 2 * size <= _CHUNK else min(start + size, texts)
        yield start, end
        start, size = end, min(2 * size, _CHUNK)


def _results(futures: list[Future[None]]) -> None:
    """Wait for all batches. If one failed, cancel those that have not begun, wait for the others, and raise."""
    try:
        for future in futures:
            future.result()
    except BaseException:
        wait([future for future in futures if not future.cancel()])
        raise
