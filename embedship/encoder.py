"""The local, synchronous door: texts in, vectors out. Export and index use it; the server shares its parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from embedship import choice
from embedship.bundle import Bundle, Variant
from embedship.codes import Vectors, cut
from embedship.engine import Engine, open_engine
from embedship.errors import EngineError, UsageError
from embedship.plan import BUDGET, pad, plan
from embedship.tokens import Tokenizer, Tokens

# Texts tokenised at once: enough to group by length, few enough to bound memory and to show progress.
_CHUNK = 4096


class Encoder:
    """Thread-safe. Holds one engine and one worker thread a stream.

    >>> encoder = Encoder.open("bundle")                    # doctest: +SKIP
    >>> encoder.encode(["a question", "another"]).shape     # doctest: +SKIP
    (2, 384)
    """

    def __init__(self, bundle: Bundle, variant: Variant, tokenizer: Tokenizer, engine: Engine) -> None:
        self.bundle = bundle
        self.variant = variant
        self.tokenizer = tokenizer
        self.engine = engine
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
    ) -> Self:
        """Open a bundle and load one variant of it (default: the one `choice.variant` picks for this machine).

        `device` and `streams` are those of `open_engine`. The variant's files are hashed first. Raises UsageError,
        UnsafeError, MissingExtra or EngineError.
        """
        bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        chosen = choice.variant(bundle, variant)
        bundle.verify(bundle.files_of(chosen))
        return cls(bundle, chosen, Tokenizer.open(bundle), open_engine(bundle, chosen.name, streams, device))

    def encode(
        self,
        texts: Sequence[str],
        *,
        prompt_name: str | None = None,
        dimensions: int | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> Vectors:
        """Return (n, dim) float32 rows in the order of texts.

        `prompt_name` picks one of the model's prompts (None: its default), `dimensions` cuts and renormalises,
        `progress` is told how many texts have just been finished. Raises UsageError, EngineError.
        """
        if isinstance(texts, str):
            raise UsageError("encode takes a list of texts; a single text would be taken for a list of letters")
        pipeline = self.bundle.manifest.pipeline
        prompt = self.tokenizer.prompt(prompt_name)
        vectors = np.empty((len(texts), pipeline.dimension), dtype=np.float32)
        for start in range(0, len(texts), _CHUNK):
            tokens = self.tokenizer(texts[start : start + _CHUNK], prompt)
            self._fill(vectors[start : start + _CHUNK], tokens, progress)
        if not np.isfinite(vectors).all():
            row = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
            raise EngineError(f"text {row} got NaN or infinity: check the bundle with `embedship verify`")
        return vectors if dimensions is None else cut(vectors, dimensions)

    def encode_tokens(self, tokens: Tokens) -> Vectors:
        """Return (n, dim) float32 rows of texts that are already tokens."""
        vectors = np.empty((len(tokens), self.bundle.manifest.pipeline.dimension), dtype=np.float32)
        self._fill(vectors, tokens, None)
        return vectors

    def _fill(self, out: Vectors, tokens: Tokens, progress: Callable[[int], object] | None) -> None:
        pad_id = self.bundle.manifest.pipeline.pad_id

        def run(rows: list[int]) -> None:
            out[rows] = self.engine.encode(pad([tokens.ids[row] for row in rows], pad_id))
            if progress:
                progress(len(rows))

        # list() waits for every batch and raises the first failure.
        list(self._threads.map(run, plan(tokens.lengths, BUDGET)))

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
