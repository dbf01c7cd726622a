"""An index -> the same documents embedded by another bundle, beside the old one, until it is whole.

What is done lies in a folder beside the new index, `.NAME.migrating`: a run killed at any point goes on there and
ends with the same bytes:

    migration.json        what this run is; it must be the same to go on
    documents.sqlite      cut anew for the new model, under a temporary name until it is whole
    vectors/              shards, as `embedship encode` writes them
"""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

from embedship.bundle import ManifestRecord
from embedship.encoder import Encoder
from embedship.errors import EmbedshipError, UsageError
from embedship.files import atomic_file, sealed
from embedship.files.atomic_folder import refuse_occupied, write_folder_atomically
from embedship.serve.bulk import run
from embedship.serve.bulk.shards import LocalEncoderPool, ProgressListener
from embedship.serve.documents import store as documents_store
from embedship.serve.documents.chunking import Chunking, chunker_for_index
from embedship.serve.documents.store import DOCUMENTS, DocumentStore
from embedship.serve.index import IndexKind, manifest
from embedship.serve.index.effort import SearchEffort
from embedship.serve.index.exact_vectors import ExactVectors
from embedship.serve.index.manifest import IndexManifest
from embedship.serve.index.recipe import RerankStore
from embedship.serve.indexing.build import (
    EmbeddingInfo,
    IndexOptions,
    Progress,
    count_of,
    disk_errors,
    finish,
    questions,
    refuse_inner_product,
)
from embedship.serve.indexing.bulk_embedding import IndexTexts, embed, truncated, vectors
from embedship.serve.indexing.embedding import CorpusEmbedder
from embedship.serve.live import origin

logger = logging.getLogger(__name__)

PLAN, VECTORS = "migration.json", "vectors"
FORMAT = 1


class MigrationPlan(ManifestRecord, frozen=True):
    """All that decides which bytes come out."""

    format: int
    source: str  # digest of the old index
    fingerprint: str
    variant: str
    kind: IndexKind | None
    factory: str | None
    store: RerankStore
    effort: SearchEffort | None
    stage_dimension: int | None
    with_title: bool
    chunking: Chunking | None
    version: int  # of the changes beside the old index, 0: none
    created: str  # when it was begun
    digest: str = ""


def as_before(
    old: IndexManifest, kind: IndexKind | None, chunking: Chunking | None, queries: Path | None
) -> IndexOptions:
    """What the old index was built with, but for what is asked for."""
    if kind is not None and kind is not old.kind:
        return IndexOptions(kind, old.with_title, queries=queries, chunking=chunking)
    recipe = old.recipe
    return IndexOptions(
        None if recipe.kind is IndexKind.FACTORY else recipe.kind,
        old.with_title,
        old.effort,
        recipe.store or RerankStore.INT8,
        recipe.dimension if recipe.dimension < old.dimension else None,
        recipe.factory if recipe.kind is IndexKind.FACTORY else None,
        queries=queries,
        chunking=chunking,
    )


def folder_beside(out: Path) -> Path:
    """Where an unfinished migration to `out` lies."""
    target = out.resolve()
    return target.parent / f".{target.name}.migrating"


def migrate(
    encoder: Encoder,
    old: Path,
    out: Path,
    wishes: IndexOptions,
    watcher: ProgressListener,
    shard_texts: int = 8192,
    progress: Progress = lambda *_: None,
    *,
    force: bool = False,
) -> IndexManifest:
    """Embed every document of the index `old`, hashed first, and publish the new index at `out`.

    Documents are those of the moment it was begun, changes beside the index included; later ones are warned of.
    `force` begins anew where an unfinished run lies.

    Raises UsageError for an `out` that is something else or an unfinished run with other options, UnsafeError for an
    old index that was changed, EmbedshipError if the disk is full: what is done stays, the same call goes on.
    """
    pipeline = encoder.bundle.manifest.pipeline
    refuse_inner_product(pipeline)
    texts = questions(wishes)
    split = chunker_for_index(encoder.tokenizer, pipeline, wishes.chunking, wishes.with_title)
    found = manifest.read(old)
    manifest.verify(old, found)
    refuse_occupied(out.resolve(), manifest.require_replaceable)
    work = folder_beside(out)
    with run.locked(work):
        with origin.documents(old, found) as now:
            plan = _begin(work, _plan(encoder, found, wishes, now.version), force)
            if not (work / DOCUMENTS).exists():
                _write_documents(now.documents, work, split)
        stored = IndexTexts(work / DOCUMENTS, wishes.with_title)
        encoded = embed(LocalEncoderPool(encoder), stored, work / VECTORS, shard_texts, watcher)
        with write_folder_atomically(out, manifest.require_replaceable) as folder:
            shutil.copyfile(work / DOCUMENTS, folder / DOCUMENTS)
            truth = ExactVectors.write(
                folder, vectors(work / VECTORS, encoded), (encoded.plan.texts, pipeline.dimension)
            )
            lost = truncated(encoder.bundle, stored, encoded)
            embedded = EmbeddingInfo(plan.variant, count_of(folder), wishes.with_title, wishes.chunking, lost)
            asked = CorpusEmbedder(encoder, wishes.with_title, lambda *_: None).queries(texts) if texts else None
            made = finish(folder, truth, encoder.bundle, embedded, wishes, asked, progress, created=plan.created)
        (work / PLAN).unlink()  # first: what is left without it is nobody's
        shutil.rmtree(work)
    _warn_of_changes(old, found, plan, out)
    return made


def _plan(encoder: Encoder, old: IndexManifest, wishes: IndexOptions, version: int) -> MigrationPlan:
    return MigrationPlan(
        format=FORMAT,
        source=old.digest,
        fingerprint=encoder.bundle.fingerprint,
        variant=encoder.variant.name,
        kind=wishes.kind,
        factory=wishes.factory,
        store=wishes.store,
        effort=wishes.effort,
        stage_dimension=wishes.stage_dimension,
        with_title=wishes.with_title,
        chunking=wishes.chunking,
        version=version,
        created=sealed.creation_time(),
    )


def _begin(work: Path, plan: MigrationPlan, force: bool) -> MigrationPlan:
    """Write down what this run is, or go on with the one that began here, if it was the same.

    Documents once copied are gone on with, as they were then.
    """
    path = work / PLAN
    if force or not path.exists():
        _empty(work)
        atomic_file.write(path, sealed.text(sealed.seal(plan)))
        return plan
    began = sealed.read(path, MigrationPlan, FORMAT, "unfinished migration")
    if differ := sealed.differences(began, plan, {"version", "created", "digest"}):
        raise UsageError(
            f"{work} holds an unfinished migration of another index or with other options ({differ}): "
            "repeat that one to go on with it, give another --out, or begin anew with --force"
        )
    return began if (work / DOCUMENTS).exists() else _begin(work, plan, force=True)


def _empty(folder: Path) -> None:
    for each in folder.iterdir():
        shutil.rmtree(each) if each.is_dir() else each.unlink()


def _write_documents(opened: DocumentStore, work: Path, split: documents_store.Split | None) -> None:
    partial = work / f".{DOCUMENTS}.partial"
    partial.unlink(missing_ok=True)
    try:
        with disk_errors(partial):
            documents_store.write(partial, opened.whole(), split)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(work / DOCUMENTS)
    except OSError as error:
        raise EmbedshipError(
            f"{work} could not be written: {error.strerror}; make room: the same command goes on from there"
        ) from error


def _warn_of_changes(old: Path, found: IndexManifest, plan: MigrationPlan, out: Path) -> None:
    if (now := origin.version(old, found)) != plan.version:
        logger.warning(
            "%s was changed while it was migrated (version %d, now %d): %s holds its documents as they were when that "
            "was begun, so send later changes to it, too",
            old, plan.version, now, out,
        )  # fmt: skip
