"""Build by goal: measure candidates on held-out queries, and take the cheapest that meets what the user needs.

Cheap is what holds little memory for a short time: hot bytes x seconds a query. Recall counts by its lower bound.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from embedship import hardware
from embedship.bundle import ModelSpec, VectorCodes
from embedship.codes import Vectors
from embedship.errors import GateError, UsageError
from embedship.monitor.recall.rolling import overlap
from embedship.serve.index import Index, IndexKind, kinds, recipe
from embedship.serve.index.effort import LIMITS, SearchEffort
from embedship.serve.index.exact_vectors import ExactVectors
from embedship.serve.index.manifest import (
    SAMPLED,
    STAGE,
    IndexChoice,
    IndexGoals,
    MeanInterval,
    MeasuredIndex,
    QuantisationParams,
)
from embedship.serve.index.recipe import IndexSpec, RerankStore
from embedship.serve.indexing import measure
from embedship.serve.indexing.measure import K

# Enough that 0.99 can be told from 0.985; of a small corpus a tenth.
_SAMPLE, _SAMPLED_SHARE = 1000, 10
_SINGLE = 200  # queries asked one at a time, of which the p99 is that of the slowest two
_LEAST_DIMENSION = 64

# Knobs and what each is tried at, from quick to thorough. Shares are of the lists of an inverted file.
_OVERSAMPLES = {
    IndexKind.BINARY: (10, 20, 40, 80),
    IndexKind.PQ: (2, 5, 10, 20, 40),
    IndexKind.RABITQ: (2, 5, 10, 20, 40),
    IndexKind.IVF_PQ: (5, 10, 20),
    IndexKind.IVF_RABITQ: (5, 20),
    IndexKind.HNSW_SQ8: (1, 2),
    IndexKind.HNSW_RABITQ: (5, 20),
}
_EF_SEARCH = (32, 64, 96, 128, 192, 256, 384, 512)
_NPROBE_SHARES = (16, 8, 4, 2)

# Flat is brute force: no sample of queries says more.
_PERFECT = MeanInterval(mean=1.0, low=1.0, high=1.0)

Progress = Callable[[int, int], object]  # recipes measured, of how many


class MeasurementPlan(msgspec.Struct, frozen=True):
    """What to measure, and whom to tell how far it is."""

    recipes: Sequence[IndexSpec]
    codes: VectorCodes
    progress: Progress
    grouping: int = 0  # bytes a row takes in memory beside the first stage: manifest.grouping


class GoalsMissed(GateError):
    """No candidate meets the goals; `choice` holds what was measured, its `chosen` the nearest."""

    def __init__(self, sentence: str, choice: IndexChoice) -> None:
        super().__init__(sentence)
        self.choice = choice


def choose(
    folder: Path, truth: ExactVectors, queries: Vectors | None, source: str, goals: IndexGoals, plan: MeasurementPlan
) -> IndexChoice:
    """Measure all candidates over the truth in `folder`, and choose.

    Without queries, documents are sampled to ask, and left out of what is measured; memory is that of the index that
    is kept, which holds them. Raises GoalsMissed, UsageError.
    """
    kept = truth.size
    with TemporaryDirectory(dir=folder, prefix="measured-") as scratch:
        if queries is None:
            truth, queries, source = *_held_out(Path(scratch), truth), SAMPLED
        expected = truth.search(queries, K).rows
        measured: list[MeasuredIndex] = []
        for done, candidate in enumerate(plan.recipes):
            plan.progress(done, len(plan.recipes))
            measured += _measured(Path(scratch), truth, candidate, plan, queries, expected)
        plan.progress(len(plan.recipes), len(plan.recipes))
    choice = IndexChoice(
        goals=goals,
        machine=hardware.machine(),
        queries=len(queries),
        source=source,
        documents=truth.size,
        chosen=_chosen(measured, goals, kept),
        measured=tuple(measured),
    )
    if missed := missing(measured[choice.chosen], goals, kept):
        raise GoalsMissed(_sentence(choice, missed, kept), choice)
    return choice


def recipes(size: int, pipeline: ModelSpec, store: RerankStore) -> list[IndexSpec]:
    """What is worth measuring: every kind, and with a Matryoshka model the smaller first stages of some."""
    full = pipeline.dimension
    found = [_recipe(kind, size, full, store) for kind in IndexKind if kind is not IndexKind.FACTORY]
    for dimension in pipeline.dimensions:
        if _LEAST_DIMENSION <= dimension < full:
            found += [_recipe(kind, size, dimension, store) for kind in (IndexKind.PQ, IndexKind.HNSW_SQ8)]
    return [each for each in found if each is not None]


def _recipe(kind: IndexKind, size: int, dimension: int, store: RerankStore) -> IndexSpec | None:
    """None where the dimension cannot be divided as the kind needs."""
    try:
        return recipe.of(kind, size, dimension, store)
    except UsageError:
        return None


def _held_out(scratch: Path, truth: ExactVectors) -> tuple[ExactVectors, Vectors]:
    """The truth without evenly spaced documents, and those."""
    count = min(_SAMPLE, truth.size // _SAMPLED_SHARE)
    if count < 1:
        raise UsageError(f"{truth.size} vectors are too few to measure goals on: take --kind flat, it is exact")
    out = np.unique(np.linspace(0, truth.size - 1, count).astype(np.int64))
    stays = np.ones(truth.size, dtype=np.bool_)
    stays[out] = False
    blocks = (block[stays[start : start + len(block)]] for start, block in truth.blocks())
    return ExactVectors.write(scratch, blocks, (truth.size - len(out), truth.dimension)), truth.rows(out)


def _measured(
    scratch: Path,
    truth: ExactVectors,
    planned: IndexSpec,
    plan: MeasurementPlan,
    queries: Vectors,
    expected: NDArray[np.int64],
) -> Iterator[MeasuredIndex]:
    began = time.perf_counter()
    packing = QuantisationParams.of(planned, plan.codes, truth.dimension)
    index = kinds.write(scratch, truth, planned, packing, kinds.default(planned))
    seconds = time.perf_counter() - began
    hot = round((scratch / STAGE).stat().st_size / truth.size + plan.grouping, 1)
    for effort in efforts(planned, truth.size):
        recall, rate, p99 = timed(index, queries, effort, expected)
        yield MeasuredIndex(
            recipe=planned,
            effort=effort,
            recall=_PERFECT if planned.kind is IndexKind.FLAT else recall,
            queries_per_second=round(rate, 1),
            p99_seconds=round(p99, 6),
            hot_bytes=hot,
            build_seconds=round(seconds, 3),
        )


def efforts(planned: IndexSpec, size: int) -> list[SearchEffort]:
    """From quick to thorough."""
    if planned.kind is IndexKind.FLAT:
        return [SearchEffort()]
    found = [SearchEffort(oversample=times) for times in _OVERSAMPLES[planned.kind]]
    if planned.kind in (IndexKind.HNSW_SQ8, IndexKind.HNSW_RABITQ):
        # Fewer than the candidates are as many as the candidates.
        pairs = ((each, ef) for each in found for ef in _EF_SEARCH if ef >= each.candidates(K))
        return [msgspec.structs.replace(each, ef_search=ef) for each, ef in pairs]
    if lists := recipe.lists(planned.kind, size):
        most = min(lists, LIMITS["nprobe"][1])
        probes = sorted({max(1, most // share) for share in _NPROBE_SHARES})
        return [msgspec.structs.replace(each, nprobe=nprobe) for each in found for nprobe in probes]
    return found


def timed(
    index: Index, queries: Vectors, effort: SearchEffort, expected: NDArray[np.int64]
) -> tuple[MeanInterval, float, float]:
    """Recall@10, queries a second in one batch, and the p99 of single ones in seconds: all on this one thread."""
    with threadpool_limits(1, user_api="blas"):
        index.search(queries[:10], K, effort=effort)
        began = time.perf_counter()
        found = index.search(queries, K, effort=effort).rows
        rate = len(queries) / (time.perf_counter() - began)
        p99 = _p99(index, queries[:_SINGLE], effort)
    return measure.interval(*overlap(found, expected)), rate, p99


def _p99(index: Index, queries: Vectors, effort: SearchEffort) -> float:
    seconds = np.empty(len(queries))
    for place in range(len(queries)):
        began = time.perf_counter()
        index.search(queries[place : place + 1], K, effort=effort)
        seconds[place] = time.perf_counter() - began
    return float(np.quantile(seconds, 0.99))


def _chosen(measured: Sequence[MeasuredIndex], goals: IndexGoals, size: int) -> int:
    """The cheapest of those that meet the goals; of none, the one that comes nearest."""
    return min(
        range(len(measured)), key=lambda at: (sum(missing(measured[at], goals, size).values()), _cost(measured[at]))
    )


def _cost(candidate: MeasuredIndex) -> float:
    return candidate.hot_bytes / candidate.queries_per_second


def missing(candidate: MeasuredIndex, goals: IndexGoals, size: int) -> dict[str, float]:
    """Goal -> by which share it is missed."""
    recall = (goals.recall - candidate.recall.low) / max(1e-9, 1 - min(goals.recall, 0.999))
    found = {"recall": recall}
    if goals.memory_bytes is not None:
        found["memory"] = candidate.hot_bytes * size / goals.memory_bytes - 1
    if goals.latency_seconds is not None:
        found["latency"] = candidate.p99_seconds / goals.latency_seconds - 1
    return {goal: by for goal, by in found.items() if by > 0}


def _sentence(choice: IndexChoice, missed: dict[str, float], size: int) -> str:
    nearest, goals = choice.measured[choice.chosen], choice.goals
    memory = f"{_megabytes(nearest.hot_bytes * size)} ({nearest.hot_bytes:,.1f} bytes a vector)"
    says = {
        "recall": f"recall {nearest.recall.low:.4f} (lower bound) and not {goals.recall:g}",
        "memory": f"memory {memory} and not {_megabytes(goals.memory_bytes or 0)}",
        "latency": f"p99 {nearest.p99_seconds * 1e3:.2f} ms and not {(goals.latency_seconds or 0) * 1e3:g} ms",
    }
    return (
        f"the goals cannot be met together: nearest comes {nearest.recipe} with effort {nearest.effort}, but its "
        f"{'; '.join(says[goal] for goal in missed)}. Relax a goal; more --queries narrow the bound of recall"
    )


def _megabytes(count: float) -> str:
    return f"{count / 1e6:,.1f} MB"
