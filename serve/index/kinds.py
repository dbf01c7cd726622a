"""Writes and opens an index of any kind from its recipe. Only this module knows the classes of each kind."""

from __future__ import annotations

from pathlib import Path

from embedship.serve.index import Index, IndexKind, factory
from embedship.serve.index.effort import SearchEffort
from embedship.serve.index.exact_vectors import ExactVectors
from embedship.serve.index.flat import FlatIndex
from embedship.serve.index.gpu import GpuResources
from embedship.serve.index.manifest import QuantisationParams
from embedship.serve.index.recipe import DEFAULTS, IndexSpec
from embedship.serve.index.stage import BinaryCandidates, CandidateGenerator, FaissCandidates
from embedship.serve.index.staged import TwoStageIndex
from embedship.serve.index.store import Float16Store, Int8Store, RerankCodes


def write(
    folder: Path,
    truth: ExactVectors,
    recipe: IndexSpec,
    packing: QuantisationParams,
    effort: SearchEffort,
    gpu: GpuResources | None = None,
) -> Index:
    """Write the search files next to the exact vectors in `folder`, and open the index.

    If `gpu` is given, it builds the parts that it supports; the file format stays the same. Raises UsageError if FAISS
    cannot build this recipe, OSError if the disk is full.
    """
    if recipe.kind is IndexKind.FLAT:
        return FlatIndex.write(folder, truth, recipe)
    store: RerankCodes = Float16Store(truth) if packing.scale is None else Int8Store.write(folder, truth, packing.scale)
    return TwoStageIndex(recipe.kind, _write_stage(folder, truth, recipe, packing, gpu), store, truth, effort)


def open(
    folder: Path, truth: ExactVectors, recipe: IndexSpec, packing: QuantisationParams, effort: SearchEffort
) -> Index:
    """Open an index that `write` wrote. The caller has verified the hashes of its files. Raises UnsafeError."""
    if recipe.kind is IndexKind.FLAT:
        return FlatIndex.open(folder, truth)
    store: RerankCodes = Float16Store(truth) if packing.scale is None else Int8Store.open(folder, truth, packing.scale)
    return TwoStageIndex(recipe.kind, _open_stage(folder, truth, recipe, packing), store, truth, effort)


def effort(recipe: IndexSpec, requested: SearchEffort | None) -> SearchEffort:
    """Return the effort of a new index: the requested values, and the defaults for the rest.

    Raises UsageError for a parameter that this kind of index does not have.
    """
    return default(recipe).overridden_by(requested)


def default(recipe: IndexSpec) -> SearchEffort:
    """Return the default effort. A factory string gets the effort of the most similar kind."""
    if recipe.kind is not IndexKind.FACTORY:
        return DEFAULTS[recipe.kind]
    index = factory.make(recipe.factory, recipe.dimension)
    if factory.is_lists(index):
        return DEFAULTS[IndexKind.IVF_RABITQ]
    return DEFAULTS[IndexKind.HNSW_RABITQ if factory.is_graph(index) else IndexKind.RABITQ]


def _write_stage(
    folder: Path, truth: ExactVectors, recipe: IndexSpec, packing: QuantisationParams, gpu: GpuResources | None
) -> CandidateGenerator:
    if packing.threshold is not None:
        return BinaryCandidates.write(folder, truth, recipe, packing.threshold)
    return FaissCandidates.write(folder, truth, recipe, gpu)


def _open_stage(
    folder: Path, truth: ExactVectors, recipe: IndexSpec, packing: QuantisationParams
) -> CandidateGenerator:
    if packing.threshold is not None:
        return BinaryCandidates.open(folder, truth.size, recipe, packing.threshold)
    return FaissCandidates.open(folder, truth.size, recipe)
