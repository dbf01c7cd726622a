"""Recipe -> index: the one place that knows how each kind is written and opened."""

from __future__ import annotations

from pathlib import Path

from embedship.serve.index import Index, Kind, factory
from embedship.serve.index.effort import Effort
from embedship.serve.index.exact_vectors import Truth
from embedship.serve.index.flat import FlatIndex
from embedship.serve.index.gpu import Gpu
from embedship.serve.index.manifest import Packing
from embedship.serve.index.recipe import DEFAULTS, Recipe
from embedship.serve.index.stage import Bits, Stage, Vectored
from embedship.serve.index.staged import StagedIndex
from embedship.serve.index.store import Codes, Float16Store, Int8Store


def write(
    folder: Path, truth: Truth, recipe: Recipe, packing: Packing, effort: Effort, gpu: Gpu | None = None
) -> Index:
    """Lay what searches beside the truth in `folder`, and open it; a `gpu` builds what it can, and changes no format.

    Raises UsageError if FAISS cannot make this recipe, OSError if the disk is full.
    """
    if recipe.kind is Kind.FLAT:
        return FlatIndex.write(folder, truth, recipe)
    store: Codes = Float16Store(truth) if packing.scale is None else Int8Store.write(folder, truth, packing.scale)
    return StagedIndex(recipe.kind, _written(folder, truth, recipe, packing, gpu), store, truth, effort)


def open(folder: Path, truth: Truth, recipe: Recipe, packing: Packing, effort: Effort) -> Index:
    """Open what `write` wrote, once its files have been hashed. Raises UnsafeError."""
    if recipe.kind is Kind.FLAT:
        return FlatIndex.open(folder, truth)
    store: Codes = Float16Store(truth) if packing.scale is None else Int8Store.open(folder, truth, packing.scale)
    return StagedIndex(recipe.kind, _opened(folder, truth, recipe, packing), store, truth, effort)


def effort(recipe: Recipe, wished: Effort | None) -> Effort:
    """The effort a new index is given: the wishes, and the default for the rest.

    Raises UsageError for a knob that it will not have.
    """
    return default(recipe).turned(wished)


def default(recipe: Recipe) -> Effort:
    if recipe.kind is not Kind.FACTORY:
        return DEFAULTS[recipe.kind]
    index = factory.make(recipe.factory, recipe.dimension)
    if factory.is_lists(index):
        return DEFAULTS[Kind.IVF_RABITQ]
    return DEFAULTS[Kind.HNSW_RABITQ if factory.is_graph(index) else Kind.RABITQ]


def _written(folder: Path, truth: Truth, recipe: Recipe, packing: Packing, gpu: Gpu | None) -> Stage:
    if packing.threshold is not None:
        return Bits.write(folder, truth, recipe, packing.threshold)
    return Vectored.write(folder, truth, recipe, gpu)


def _opened(folder: Path, truth: Truth, recipe: Recipe, packing: Packing) -> Stage:
    if packing.threshold is not None:
        return Bits.open(folder, truth.size, recipe, packing.threshold)
    return Vectored.open(folder, truth.size, recipe)
