"""Migrates an index: embeds the same documents with another bundle, next to the old index.

Intermediate files are in the folder `.NAME.migrating` next to the new index. A killed run continues from these files,
and writes the same bytes:

    migration.json        the inputs and options of the run, which must be the same to continue
    documents.sqlite      documents, chunked for the new model; under a temporary name until it is complete
    vectors/              shards in the format of `embedship encode`
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
    count_documents,
    disk_errors,
    finish,
    read_queries,
    refuse_inner_product,
)
from embedship.serve.indexing.bulk_embedding import IndexTexts, count_truncated, embed, vectors
from embedship.serve.indexing.embedding import CorpusEmbedder
from embedship.serve.live import origin

logger = logging.getLogger(__name__)

PLAN, VECTORS = "migration.json", "vectors"
FORMAT = 1


class MigrationPlan(ManifestRecord, frozen=True):
    """Everything that determines the bytes of the new index."""

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
    version: int  # version of the changes next to the old index; 0 if there are none
    created: str  # when the migration was started
    digest: str = ""


def options_from_index(
    old: IndexManifest, kind: IndexKind | None, chunking: Chunking | None, queries: Path | None
) -> IndexOptions:
    """Return the build options of the old index, with the given ones replaced."""
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


def work_folder(out: Path) -> Path:
    """Return the folder of an unfinished migration to `out`."""
    target = out.resolve()
    return target.parent / f".{target.name}.migrating"


def migrate(
    encoder: Encoder,
    old: Path,
    out: Path,
    options: IndexOptions,
    watcher: ProgressListener,
    shard_texts: int = 8192,
    progress: Progress = lambda *_: None,
    *,
    force: bool = False,
) -> IndexManifest:
    """Embed every document of the index `old`, whose files are hashed first, and write the new index to `out`.

    The documents are those at the start of the migration, including the changes next to the index. If there are later
    changes, a warning is logged. `force` starts again even if there is an unfinished run.

    Raises UsageError if `out` is not an index, or if there is an unfinished run with other options; UnsafeError if
    files of the old index were modified; EmbedshipError if the disk is full: the same call then continues from the
    finished part.
    """
    pipeline = encoder.bundle.manifest.pipeline
    refuse_inner_product(pipeline)
    texts = read_queries(options)
    split = chunker_for_index(encoder.tokenizer, pipeline, options.chunking, options.with_title)
    stored = manifest.read(old)
    manifest.verify(old, stored)
    refuse_occupied(out.resolve(), manifest.require_replaceable)
    work = work_folder(out)
    with run.locked(work):
        with origin.documents(old, stored) as current:
            plan = _begin(work, _plan(encoder, stored, options, current.version), force)
            if not (work / DOCUMENTS).exists():
                _write_documents(current.documents, work, split)
        index_texts = IndexTexts(work / DOCUMENTS, options.with_title)
        encoded = embed(LocalEncoderPool(encoder), index_texts, work / VECTORS, shard_texts, watcher)
        with write_folder_atomically(out, manifest.require_replaceable) as folder:
            shutil.copyfile(work / DOCUMENTS, folder / DOCUMENTS)
            truth = ExactVectors.write(
                folder, vectors(work / VECTORS, encoded), (encoded.plan.texts, pipeline.dimension)
            )
            truncated = count_truncated(encoder.bundle, index_texts, encoded)
            embedded = EmbeddingInfo(
                plan.variant, count_documents(folder), options.with_title, options.chunking, truncated
            )
            queries = CorpusEmbedder(encoder, options.with_title, lambda *_: None).queries(texts) if texts else None
            migrated = finish(folder, truth, encoder.bundle, embedded, options, queries, progress, created=plan.created)
        (work / PLAN).unlink()  # removed first: a folder without a plan is not continued
        shutil.rmtree(work)
    _warn_of_changes(old, stored, plan, out)
    return migrated


def _plan(encoder: Encoder, old: IndexManifest, options: IndexOptions, version: int) -> MigrationPlan:
    return MigrationPlan(
        format=FORMAT,
        source=old.digest,
        fingerprint=encoder.bundle.fingerprint,
        variant=encoder.variant.name,
        kind=options.kind,
        factory=options.factory,
        store=options.store,
        effort=options.effort,
        stage_dimension=options.stage_dimension,
        with_title=options.with_title,
        chunking=options.chunking,
        version=version,
        created=sealed.creation_time(),
    )


def _begin(work: Path, plan: MigrationPlan, force: bool) -> MigrationPlan:
    """Write the plan of this run, or return the plan of an unfinished run with the same inputs and options.

    If an unfinished run has already copied the documents, these copies are used, even if documents changed since.
    """
    path = work / PLAN
    if force or not path.exists():
        _empty(work)
        atomic_file.write(path, sealed.to_bytes(sealed.seal(plan)))
        return plan
    unfinished = sealed.read(path, MigrationPlan, FORMAT, "unfinished migration")
    if differences := sealed.differences(unfinished, plan, {"version", "created", "digest"}):
        raise UsageError(
            f"{work} has an unfinished migration of another index or with other options ({differences}): "
            "repeat that migration to continue it, give another --out, or start again with --force"
        )
    return unfinished if (work / DOCUMENTS).exists() else _begin(work, plan, force=True)


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
            f"{work} could not be written: {error.strerror}; free some space: the same command continues from there"
        ) from error


def _warn_of_changes(old: Path, stored: IndexManifest, plan: MigrationPlan, out: Path) -> None:
    if (version := origin.version(old, stored)) != plan.version:
        logger.warning(
            "%s was changed while it was migrated (version %d, now %d): %s has the documents as they were at the start "
            "of the migration, so send the later changes to it also",
            old, plan.version, version, out,
        )  # fmt: skip
