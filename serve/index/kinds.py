"""Recipe -> index: the one place that knows how each kind is written and opened."""

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
    """Lay what searches beside the truth in `folder`, and open it; a `gpu` builds what it can, and changes no format.

    Raises UsageError if FAISS cannot make this recipe, OSError if the disk is full.
    """
    if recipe.kind is IndexKind.FLAT:
        return FlatIndex.write(folder, truth, recipe)
    store: RerankCodes = Float16Store(truth) if packing.scale is None else Int8Store.write(folder, truth, packing.scale)
    return TwoStageIndex(recipe.kind, _written(folder, truth, recipe, packing, gpu), store, truth, effort)


def open(
    folder: Path, truth: ExactVectors, recipe: IndexSpec, packing: QuantisationParams, effort: SearchEffort
) -> Index:
    """Open what `write` wrote, once its files have been hashed. Raises UnsafeError."""
    if recipe.kind is IndexKind.FLAT:
        return FlatIndex.open(folder, truth)
    store: RerankCodes = Float16Store(truth) if packing.scale is None else Int8Store.open(folder, truth, packing.scale)
    return TwoStageIndex(recipe.kind, _opened(folder, truth, recipe, packing), store, truth, effort)


def effort(recipe: IndexSpec, wished: SearchEffort | None) -> SearchEffort:
    """The effort a new index is given: the wishes, and the default for the rest.

    Raises UsageError for a knob that it will not have.
    """
    return default(recipe).overridden_by(wished)


def default(recipe: IndexSpec) -> SearchEffort:
    if recipe.kind is not IndexKind.FACTORY:
        return DEFAULTS[recipe.kind]
    index = factory.make(recipe.factory, recipe.dimension)
    if factory.is_lists(index):
        return DEFAULTS[IndexKind.IVF_RABITQ]
    return DEFAULTS[IndexKind.HNSW_RABITQ if factory.is_graph(index) else IndexKind.RABITQ]


def _written(
    folder: Path, truth: ExactVectors, recipe: IndexSpec, packing: QuantisationParams, gpu: GpuResources | None
) -> CandidateGenerator:
    if packing.threshold is not None:
        return BinaryCandidates.write(folder, truth, recipe, packing.threshold)
    return FaissCandidates.write(folder, truth, recipe, gpu)


def _opened(folder: Path, truth: ExactVectors, recipe: IndexSpec, packing: QuantisationParams) -> CandidateGenerator:
    if packing.threshold is not None:
        return BinaryCandidates.open(folder, truth.size, recipe, packing.threshold)
    return FaissCandidates.open(folder, truth.size, recipe)
