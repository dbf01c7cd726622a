"""Builds another kind of index from the exact vectors of an existing index, without embedding its documents again."""

from __future__ import annotations

import shutil
from pathlib import Path

from embedship.bundle import Bundle
from embedship.encoder import Encoder
from embedship.files.atomic_folder import write_folder_atomically
from embedship.serve.documents.store import DOCUMENTS
from embedship.serve.index import manifest
from embedship.serve.index.exact_vectors import ExactVectors
from embedship.serve.index.gpu import GpuResources
from embedship.serve.index.manifest import VECTORS
from embedship.serve.indexing.build import (
    BuildResult,
    BuildStep,
    EmbeddingInfo,
    IndexOptions,
    Progress,
    finish,
    read_queries,
)
from embedship.serve.indexing.embedding import CorpusEmbedder
from embedship.serve.live import origin


def requantise(
    bundle: Bundle, encoder: Encoder | None, source: Path, out: Path, options: IndexOptions, progress: Progress
) -> BuildResult:
    """Build an index at `out` from the documents and the exact vectors of the index `source`, hashed first.

    The encoder only embeds the queries that recall is measured with, if there are any. Raises UsageError (also if
    there are changes next to the index), MismatchError if the vectors are not from this bundle's model, UnsafeError if
    files were changed.
    """
    stored = manifest.read(source)
    origin.require_unchanged(source)
    manifest.require_model(source, stored, bundle)
    manifest.verify(source, stored)
    texts = read_queries(options)
    gpu = GpuResources() if options.gpu else None
    with write_folder_atomically(out, manifest.require_replaceable) as folder:
        for name in (DOCUMENTS, VECTORS):
            shutil.copyfile(source / name, folder / name)
        truth = ExactVectors.open(folder, (stored.size, stored.dimension))
        progress(BuildStep.READ, stored.size, stored.size)
        queries = None
        if texts:
            assert encoder is not None, "an encoder is needed to embed the queries"
            queries = CorpusEmbedder(encoder, stored.with_title, lambda *_: None).queries(texts)
        embedded = EmbeddingInfo(stored.variant, stored.documents, stored.with_title, stored.chunking, stored.truncated)
        return BuildResult(finish(folder, truth, bundle, embedded, options, queries, progress, gpu=gpu), 0, 0.0)
