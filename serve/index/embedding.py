"""Documents -> unit vectors, with the prompts that sentence-transformers would pick."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from embedship.codes import Vectors, normalise
from embedship.encoder import Encoder
from embedship.errors import EngineError
from embedship.serve.documents import DOCUMENTS, Document, Documents
from embedship.serve.index.truth import Truth

# Texts tokenised and batched at once: enough to group by length, few enough to bound memory and to show progress.
_CHUNK = 512


def text_of(document: Document, with_title: bool) -> str:
    """What is embedded: the text, or title and text with a space between, as BEIR and MTEB join them."""
    return f"{document.title} {document.text}" if with_title and document.title else document.text


class Embedding:
    """One corpus on its way through the encoder; counts what was cut off, and the seconds it took."""

    def __init__(self, encoder: Encoder, with_title: bool, progress: Callable[[int, int], object]) -> None:
        pipeline = encoder.bundle.manifest.pipeline
        self.document_prompt = pipeline.document_prompt
        self.query_prompt = pipeline.query_prompt
        self.truncated = 0
        self.seconds = 0.0
        self._encoder = encoder
        self._with_title = with_title
        self._progress = progress
        self._dimension = pipeline.dimension
        self._normalised = pipeline.normalised

    def write(self, folder: Path) -> Truth:
        """Embed documents.sqlite of this folder and lay the vectors beside it."""
        started = time.perf_counter()
        with closing(Documents.open(folder / DOCUMENTS)) as documents:
            self._progress(0, documents.size)
            truth = Truth.write(folder, self._blocks(documents), (documents.size, self._dimension))
        self.seconds = time.perf_counter() - started
        return truth

    def documents(self, documents: Sequence[Document]) -> Vectors:
        """(n, dim) float32 unit rows; what is cut off is counted."""
        texts = [text_of(document, self._with_title) for document in documents]
        vectors, cut = self._vectors(texts, self.document_prompt)
        self.truncated += cut
        return vectors

    def queries(self, texts: Sequence[str]) -> Vectors:
        return self._vectors(texts, self.query_prompt)[0]

    def _blocks(self, documents: Documents) -> Iterator[Vectors]:
        for start in range(0, documents.size, _CHUNK):
            stop = min(start + _CHUNK, documents.size)
            vectors = self.documents(documents.fetch(range(start, stop)))
            self._progress(stop, documents.size)
            yield vectors

    def _vectors(self, texts: Sequence[str], prompt: str | None) -> tuple[Vectors, int]:
        tokens = self._encoder.tokenizer(texts, self._encoder.tokenizer.prompt(prompt))
        vectors = self._encoder.encode_tokens(tokens)
        if not np.isfinite(vectors).all():
            raise EngineError("the model gave NaN or infinity for a document: check the bundle with `embedship verify`")
        return vectors if self._normalised else normalise(vectors), sum(cut > 0 for cut in tokens.cut)
