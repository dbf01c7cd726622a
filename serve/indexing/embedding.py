"""Documents -> unit vectors, with the prompts that sentence-transformers would pick."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np

from embedship.codes import Vectors, normalise
from embedship.encoder import Encoder, require_tokens
from embedship.errors import EngineError, UsageError
from embedship.serve.documents.chunking import title_prefix
from embedship.serve.documents.store import DOCUMENTS, Document, DocumentStore
from embedship.serve.index.exact_vectors import ExactVectors
from embedship.serve.index.manifest import TruncatedTexts
from embedship.tokens import TokenBatch

# Texts tokenised and batched at once: enough to group by length, few enough to bound memory and to show progress.
CHUNK = 512


def text_of(document: Document, with_title: bool) -> str:
    """What is embedded: the text, or title and text with a space between, as BEIR and MTEB join them."""
    return title_prefix(document) + document.text if with_title else document.text


class EmbeddedCorpus(NamedTuple):
    """The vectors of an index, what the model did not read of its texts, and the seconds it took."""

    truth: ExactVectors
    truncated: TruncatedTexts
    seconds: float


class CorpusEmbedder:
    """One corpus on its way through the encoder; counts what was cut off."""

    def __init__(self, encoder: Encoder, with_title: bool, progress: Callable[[int, int], object]) -> None:
        pipeline = encoder.bundle.manifest.pipeline
        self.document_prompt = pipeline.document_prompt
        self.query_prompt = pipeline.query_prompt
        self.truncated = TruncatedTexts()
        self._encoder = encoder
        self._with_title = with_title
        self._progress = progress
        self._dimension = pipeline.dimension
        self._normalised = pipeline.normalised

    def write(self, folder: Path) -> EmbeddedCorpus:
        """Embed documents.sqlite of this folder and lay the vectors beside it."""
        started = time.perf_counter()
        with closing(DocumentStore.open(folder / DOCUMENTS)) as documents:
            self._progress(0, documents.size)
            truth = ExactVectors.write(folder, self._blocks(documents), (documents.size, self._dimension))
        return EmbeddedCorpus(truth, self.truncated, time.perf_counter() - started)

    def documents(self, documents: Sequence[Document]) -> Vectors:
        """(n, dim) float32 unit rows; what is cut off is counted."""
        tokens = self._tokens([text_of(document, self._with_title) for document in documents], self.document_prompt)
        if [] in tokens.ids:
            id = documents[tokens.ids.index([])].id
            raise UsageError(f"document {id!r} is empty for this model: leave it out")
        vectors = self._vectors(tokens)
        self.truncated = added(self.truncated, tokens, [document.id for document in documents])
        return vectors

    def queries(self, texts: Sequence[str]) -> Vectors:
        tokens = self._tokens(texts, self.query_prompt)
        require_tokens(tokens)
        return self._vectors(tokens)

    def _blocks(self, documents: DocumentStore) -> Iterator[Vectors]:
        for start in range(0, documents.size, CHUNK):
            stop = min(start + CHUNK, documents.size)
            vectors = self.documents(documents.fetch(range(start, stop)))
            self._progress(stop, documents.size)
            yield vectors

    def _tokens(self, texts: Sequence[str], prompt: str | None) -> TokenBatch:
        return self._encoder.tokenizer(texts, self._encoder.tokenizer.prompt(prompt))

    def _vectors(self, tokens: TokenBatch) -> Vectors:
        vectors = self._encoder.encode_tokens(tokens)
        if not np.isfinite(vectors).all():
            raise EngineError("the model gave NaN or infinity for a document: check the bundle with `embedship verify`")
        return vectors if self._normalised else normalise(vectors)


def added(so_far: TruncatedTexts, tokens: TokenBatch, ids: Sequence[str]) -> TruncatedTexts:
    """What was lost so far, and now of these texts."""
    worst = max(range(len(ids)), key=tokens.cut.__getitem__)
    worse = tokens.cut[worst] > so_far.worst
    return TruncatedTexts(
        texts=so_far.texts + sum(cut > 0 for cut in tokens.cut),
        tokens=so_far.tokens + sum(tokens.cut),
        of=so_far.of + sum(tokens.lengths) + sum(tokens.cut),
        worst=tokens.cut[worst] if worse else so_far.worst,
        worst_id=ids[worst] if worse else so_far.worst_id,
    )
