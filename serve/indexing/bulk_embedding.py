"""Embeds the documents of an index with a bulk run, and reads the vectors from its shards."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np

from embedship.bundle import Bundle, VectorCode
from embedship.codes import Vectors, normalise
from embedship.serve.bulk import run
from embedship.serve.bulk.manifest import EncodeManifest, EncodeOptions
from embedship.serve.bulk.shards import EncoderPool, ProgressListener
from embedship.serve.bulk.source import TextRow
from embedship.serve.bulk.storage import LocalFile
from embedship.serve.documents.store import DOCUMENTS, DocumentStore
from embedship.serve.index.exact_vectors import ExactVectors
from embedship.serve.index.manifest import TruncatedTexts
from embedship.serve.indexing.embedding import CHUNK, EmbeddedCorpus, add_truncation, text_of
from embedship.tokens import Tokenizer

_SHARDS = "shards"


class IndexTexts:
    """The rows of a document store as the input of a bulk run."""

    def __init__(self, path: Path, with_title: bool) -> None:
        self.place = LocalFile(path)
        self._with_title = with_title

    def rows(self, start: int = 0) -> Iterator[TextRow]:
        with closing(DocumentStore.open(self.place.path)) as opened:
            for first in range(start, opened.size, CHUNK):
                for document in opened.fetch(range(first, min(first + CHUNK, opened.size))):
                    yield TextRow(document.id, text_of(document, self._with_title), f"document {document.id}")


def embed_with_pool(
    encoders: EncoderPool, folder: Path, with_title: bool, progress: Callable[[int, int], object]
) -> EmbeddedCorpus:
    """Embed the documents in `folder` as CorpusEmbedder.write does, with encoders that may run elsewhere.

    Each shard has CHUNK texts, like a batch of CorpusEmbedder, so the vectors are the same. The shards are removed
    afterwards.
    """
    started, pipeline = time.perf_counter(), encoders.bundle.manifest.pipeline
    stored, shards = IndexTexts(folder / DOCUMENTS, with_title), folder / _SHARDS
    encoded = embed(encoders, stored, shards, CHUNK, _ProgressAdapter(progress))
    truth = ExactVectors.write(folder, vectors(shards, encoded), (encoded.plan.texts, pipeline.dimension))
    shutil.rmtree(shards)
    truncated = count_truncated(encoders.bundle, stored, encoded)
    return EmbeddedCorpus(truth, truncated, time.perf_counter() - started)


class _ProgressAdapter:
    """Reports the progress of a bulk run as texts done and total."""

    def __init__(self, progress: Callable[[int, int], object]) -> None:
        self._progress = progress
        self._done = self._total = 0

    def start(self, texts: int, done: int) -> None:
        self._total = texts
        self.encoded(done, 0)

    def encoded(self, texts: int, tokens: int) -> None:
        self._done += texts
        self._progress(self._done, self._total)


def embed(
    encoders: EncoderPool, stored: IndexTexts, out: Path, shard_texts: int, watcher: ProgressListener
) -> EncodeManifest:
    """Encode the documents with a bulk run, with the document prompt. Raises the errors of `bulk.run.encode`."""
    pipeline = encoders.bundle.manifest.pipeline
    # Vectors that are not normalised stay in float32: float16 would round them before they are normalised.
    code = VectorCode.FLOAT16 if pipeline.normalised else VectorCode.FLOAT32
    options = EncodeOptions(code=code, prompt_name=pipeline.document_prompt, shard_texts=shard_texts)
    return run.encode(encoders, stored, (), out, options, watcher)


def vectors(folder: Path, encoded: EncodeManifest) -> Iterator[Vectors]:
    """Yield the unit vectors of each shard, in order."""
    for shard in encoded.shards:
        rows = np.load(folder / shard.name, mmap_mode="r", allow_pickle=False)
        yield rows if encoded.plan.code is VectorCode.FLOAT16 else normalise(rows)


def count_truncated(bundle: Bundle, stored: IndexTexts, encoded: EncodeManifest) -> TruncatedTexts:
    """Return the number of truncated texts and tokens.

    If texts were truncated, all texts are tokenised again, because shards do not record which texts were truncated.
    """
    if not encoded.cut:
        return TruncatedTexts(of=encoded.tokens)
    tokenizer, so_far, rows = Tokenizer.open(bundle), TruncatedTexts(), list(stored.rows())
    for start in range(0, len(rows), CHUNK):
        block = rows[start : start + CHUNK]
        tokens = tokenizer([row.text for row in block], encoded.plan.prompt)
        so_far = add_truncation(so_far, tokens, [str(row.id) for row in block])
    return so_far
