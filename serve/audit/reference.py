"""ReferenceModel: computes the vectors of any recipe from the plain float32 variant of a bundle, on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from embedship import golden
from embedship.batches import Batch, pad
from embedship.bundle import Bundle, Runtime
from embedship.codes import Vectors, cosine, normalise
from embedship.encoder import Encoder
from embedship.engine.onnxruntime import OnnxRuntimeEngine
from embedship.errors import EngineError, GateError
from embedship.serve.audit.recipes import POOLINGS, TEXT_CHANGES, EncodingRecipe, Hidden, SpecialTokens, pool

_HIDDEN = "last_hidden_state"  # the second output of the graph, (n, length, hidden size)
_SAME = 0.9999  # lowest median cosine at which a pooling counts as the model's own


class ReferenceModel:
    """The model of a bundle in float32. Every text is computed alone and without padding."""

    def __init__(self, encoder: Encoder) -> None:
        self.bundle = encoder.bundle
        self.model = encoder.bundle.manifest.pipeline
        self.tokenizer = encoder.tokenizer
        self._encoder = encoder
        self._hidden_engine: OnnxRuntimeEngine | None = None
        self._threads = ThreadPoolExecutor(encoder.engine.streams)
        self._known: dict[tuple[EncodingRecipe, str], np.ndarray[tuple[int], np.dtype[np.float32]]] = {}
        self._hidden_states: dict[tuple[EncodingRecipe, str], Hidden] = {}  # the key has the recipe without its pooling
        self._head, self._tail = self.tokenizer.special_tokens

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open the plain variant of a bundle and check that it gives the checkpoint's vectors here.

        Raises UsageError, UnsafeError, MissingExtra, EngineError.
        """
        bundle = Bundle.open(folder)
        bundle.require_complete("an audit")
        encoder = Encoder.open(bundle, bundle.plain.name)
        try:
            golden.check(encoder)
        except GateError as error:
            encoder.close()
            raise EngineError(f"the bundle cannot judge a server on this machine: {error}") from None
        return cls(encoder)

    def vectors(self, texts: Sequence[str], recipe: EncodingRecipe) -> Vectors:
        """Return (n, dim) float32 vectors. A row is NaN if the model cannot compute the text."""
        unknown = [text for text in dict.fromkeys(texts) if (recipe, text) not in self._known]
        for text, row in zip(unknown, self._compute(unknown, recipe), strict=True):
            self._known[recipe, text] = row
        rows = [self._known[recipe, text] for text in texts]
        return np.stack(rows) if rows else np.empty((0, self.model.dimension), dtype=np.float32)

    def poolings(self, texts: Sequence[str], expected: EncodingRecipe) -> list[str]:
        """Return the poolings whose vectors can be computed and differ from the model's. Empty without token vectors.

        If layers follow the model's own pooling, that pooling is included, because a server may leave the layers out.
        """
        own = self.vectors(texts, expected)
        found: list[str] = []
        for pooling in POOLINGS:
            recipe = EncodingRecipe(expected.prompt, pooling)
            rows = self.vectors(texts, recipe)
            if not np.isfinite(rows).all():
                return []
            if rows.shape != own.shape or not float(np.median(cosine(own, rows))) >= _SAME:
                found.append(pooling)
        return found

    def _compute(self, texts: Sequence[str], recipe: EncodingRecipe) -> list[Vectors]:
        if recipe.pooling is None:
            return list(self._threads.map(lambda text: self._vector(self._batch(text, recipe)), texts))
        unpooled = replace(recipe, pooling=None)
        unknown = [text for text in texts if (unpooled, text) not in self._hidden_states]
        states = self._threads.map(lambda text: self._hidden(self._batch(text, recipe)), unknown)
        self._hidden_states |= {(unpooled, text): state for text, state in zip(unknown, states, strict=True)}
        rows = [pool([self._hidden_states[unpooled, text]], recipe.pooling) for text in texts]
        return [normalise(row)[0] if self.model.normalised else row[0] for row in rows]

    def _vector(self, batch: Batch) -> Vectors:
        try:
            # A text without tokens has no vector: pad() makes a row of padding.
            return self._encoder.engine.encode(batch)[0] if batch.attention_mask.any() else self._nothing()
        except EngineError:  # the text has more tokens than the model has positions
            return self._nothing()

    def _hidden(self, batch: Batch) -> Hidden:
        if self._hidden_engine is None:
            self._hidden_engine = self._open_hidden()
        try:
            return self._hidden_engine.encode(batch)[0] if self._hidden_engine else self._nothing()[None]
        except EngineError:
            return self._nothing()[None]

    def _open_hidden(self) -> OnnxRuntimeEngine | None:
        plain = self.bundle.plain
        if plain.runtime is not Runtime.ONNXRUNTIME:
            return None
        path = self.bundle.path(plain.path)
        return OnnxRuntimeEngine(path, self.model.inputs, plain.weights, self._encoder.engine.streams, _HIDDEN)

    def _nothing(self) -> Vectors:
        return np.full(self.model.dimension, np.nan, dtype=np.float32)

    def _batch(self, text: str, recipe: EncodingRecipe) -> Batch:
        text = TEXT_CHANGES[recipe.change](text) if recipe.change else text
        if recipe.own_tokens:
            tokens = self.tokenizer([text], recipe.prompt)
            batch = pad(tokens.ids, self.model.pad_id)
            if self.model.pools_prompts or not any(tokens.turns):
                return batch
            return batch.with_unpooled_prompts(tokens.turns)
        return pad([self._ids(text, recipe)], self.model.pad_id)

    def _ids(self, text: str, recipe: EncodingRecipe) -> list[int]:
        """Return the token ids of a text for a recipe with other special tokens, limit or side of truncation."""
        (encoding,) = self.tokenizer.tokenize([text], recipe.prompt, specials=False)
        inner = [*encoding.ids, *(i for part in encoding.overflowing for i in part.ids)]
        times = {SpecialTokens.NONE: 0, SpecialTokens.TWICE: 2}.get(recipe.special_tokens, 1)
        head, tail = self._head * times, self._tail * times
        limit = recipe.limit or self.model.max_tokens
        if recipe.special_tokens is SpecialTokens.NO_END:
            return [*head, *inner, *tail][:limit]
        most = max(0, limit - len(head) - len(tail))
        first = max(0, len(inner) - most) if recipe.from_left else 0
        return [*head, *inner[first : first + most], *tail]

    def close(self) -> None:
        """Release the engines."""
        self._threads.shutdown()
        self._encoder.close()
        if self._hidden_engine is not None:
            self._hidden_engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
