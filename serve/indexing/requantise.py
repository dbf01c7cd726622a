"""An index -> another kind of index over the same vectors: nothing is embedded again."""

from __future__ import annotations

import shutil
from pathlib import Path

from embedship.bundle import Bundle
from embedship.encoder import Encoder
from embedship.files.atomic_folder import staged
from embedship.serve.documents.store import DOCUMENTS
from embedship.serve.index import manifest
from embedship.serve.index.exact_vectors import Truth
from embedship.serve.index.gpu import Gpu
from embedship.serve.index.manifest import VECTORS
from embedship.serve.indexing.build import Built, Embedded, Progress, Step, Wishes, finish, questions
from embedship.serve.indexing.embedding import Embedding
from embedship.serve.live import origin


def requantise(
    bundle: Bundle, encoder: Encoder | None, source: Path, out: Path, wishes: Wishes, progress: Progress
) -> Built:
    """Build an index at `out` from the documents and the exact vectors of the index `source`, hashed first.

    The encoder is asked for nothing but the questions that recall is measured with, if there are any. Raises
    UsageError (also where there are changes beside it), MismatchError where the vectors are not those of this bundle,
    UnsafeError where they were changed.
    """
    found = manifest.read(source)
    origin.refuse(source)
    manifest.demand_model(source, found, bundle)
    manifest.verify(source, found)
    texts = questions(wishes)
    gpu = Gpu() if wishes.gpu else None
    with staged(out, manifest.require_replaceable) as folder:
        for name in (DOCUMENTS, VECTORS):
            shutil.copyfile(source / name, folder / name)
        truth = Truth.open(folder, (found.size, found.dimension))
        progress(Step.READ, found.size, found.size)
        queries = None
        if texts:
            assert encoder is not None, "who measures with questions gives what encodes them"
            queries = Embedding(encoder, found.with_title, lambda *_: None).queries(texts)
        embedded = Embedded(found.variant, found.documents, found.with_title, found.chunking, found.truncated)
        return Built(finish(folder, truth, bundle, embedded, wishes, queries, progress, gpu=gpu), 0, 0.0)
