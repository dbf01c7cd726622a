"""An index -> another kind of index over the same vectors: nothing is embedded again."""

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
    questions,
)
from embedship.serve.indexing.embedding import CorpusEmbedder
from embedship.serve.live import origin


def requantise(
    bundle: Bundle, encoder: Encoder | None, source: Path, out: Path, wishes: IndexOptions, progress: Progress
) -> BuildResult:
    """Build an index at `out` from the documents and the exact vectors of the index `source`, hashed first.

    The encoder is asked for nothing but the questions that recall is measured with, if there are any. Raises
    UsageError (also where there are changes beside it), MismatchError where the vectors are not those of this bundle,
    UnsafeError where they were changed.
    """
    found = manifest.read(source)
    origin.refuse(source)
    manifest.require_model(source, found, bundle)
    manifest.verify(source, found)
    texts = questions(wishes)
    gpu = GpuResources() if wishes.gpu else None
    with write_folder_atomically(out, manifest.require_replaceable) as folder:
        for name in (DOCUMENTS, VECTORS):
            shutil.copyfile(source / name, folder / name)
        truth = ExactVectors.open(folder, (found.size, found.dimension))
        progress(BuildStep.READ, found.size, found.size)
        queries = None
        if texts:
            assert encoder is not None, "who measures with questions gives what encodes them"
            queries = CorpusEmbedder(encoder, found.with_title, lambda *_: None).queries(texts)
        embedded = EmbeddingInfo(found.variant, found.documents, found.with_title, found.chunking, found.truncated)
        return BuildResult(finish(folder, truth, bundle, embedded, wishes, queries, progress, gpu=gpu), 0, 0.0)
