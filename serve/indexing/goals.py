"""Build by goal: measures candidate recipes on held-out queries, and chooses the cheapest that meets the goals.

The cost is memory times time: hot bytes per vector x seconds per query. For recall, the lower bound of its
interval counts.
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

# Sampled queries: enough to tell 0.99 from 0.985; at most a tenth of a small corpus.
_SAMPLE, _SAMPLED_SHARE = 1000, 10
_SINGLE = 200  # queries that are run one at a time; the slowest two determine their p99
_LEAST_DIMENSION = 64

# Effort settings to try for each kind, from fast to thorough. _NPROBE_SHARES are divisors of the number of lists.
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

# A flat index is exact by construction, so its recall is not taken from a sample.
_PERFECT = MeanInterval(mean=1.0, low=1.0, high=1.0)

Progress = Callable[[int, int], object]  # called with recipes measured and total


class MeasurementPlan(msgspec.Struct, frozen=True):
    """The recipes to measure, and a callback for the progress."""

    recipes: Sequence[IndexSpec]
    codes: VectorCodes
    progress: Progress
    grouping: int = 0  # bytes per row in memory in addition to the first stage: manifest.grouping


class GoalsMissed(GateError):
    """No candidate meets the goals. `choice` has the measurements; its `chosen` is the nearest candidate."""

    def __init__(self, message: str, choice: IndexChoice) -> None:
        super().__init__(message)
        self.choice = choice


def choose(
    folder: Path, truth: ExactVectors, queries: Vectors | None, source: str, goals: IndexGoals, plan: MeasurementPlan
) -> IndexChoice:
    """Measure all candidates over the exact vectors `truth`, with scratch files in `folder`, and choose one.

    Without queries, documents are sampled as queries and left out of the measured index. Memory is that of the final
    index, which includes them. Raises GoalsMissed, UsageError.
    """
    final_size = truth.size
    with TemporaryDirectory(dir=folder, prefix="measured-") as scratch:
        if queries is None:
            truth, queries, source = *_hold_out(Path(scratch), truth), SAMPLED
        expected = truth.search(queries, K).rows
        measured: list[MeasuredIndex] = []
        for done, candidate in enumerate(plan.recipes):
            plan.progress(done, len(plan.recipes))
            measured += _measure(Path(scratch), truth, candidate, plan, queries, expected)
        plan.progress(len(plan.recipes), len(plan.recipes))
    choice = IndexChoice(
        goals=goals,
        machine=hardware.machine(),
        queries=len(queries),
        source=source,
        documents=truth.size,
        chosen=_chosen(measured, goals, final_size),
        measured=tuple(measured),
    )
    if missed := missed_goals(measured[choice.chosen], goals, final_size):
        raise GoalsMissed(_message(choice, missed, final_size), choice)
    return choice


def recipes(size: int, pipeline: ModelSpec, store: RerankStore) -> list[IndexSpec]:
    """Return the candidates: every kind, and for a Matryoshka model also smaller first stages of some kinds."""
    full = pipeline.dimension
    candidates = [_recipe(kind, size, full, store) for kind in IndexKind if kind is not IndexKind.FACTORY]
    for dimension in pipeline.dimensions:
        if _LEAST_DIMENSION <= dimension < full:
            candidates += [_recipe(kind, size, dimension, store) for kind in (IndexKind.PQ, IndexKind.HNSW_SQ8)]
    return [each for each in candidates if each is not None]


def _recipe(kind: IndexKind, size: int, dimension: int, store: RerankStore) -> IndexSpec | None:
    """Return the recipe; None if the dimension is not divisible as the kind needs."""
    try:
        return recipe.make_recipe(kind, size, dimension, store)
    except UsageError:
        return None


def _hold_out(scratch: Path, truth: ExactVectors) -> tuple[ExactVectors, Vectors]:
    """Return the exact vectors without evenly spaced documents, and the vectors of these documents as queries."""
    count = min(_SAMPLE, truth.size // _SAMPLED_SHARE)
    if count < 1:
        raise UsageError(
            f"{truth.size} vectors are too few to measure goals: use --kind flat, which is exact, in place of goals"
        )
    out = np.unique(np.linspace(0, truth.size - 1, count).astype(np.int64))
    keep = np.ones(truth.size, dtype=np.bool_)
    keep[out] = False
    blocks = (block[keep[start : start + len(block)]] for start, block in truth.blocks())
    return ExactVectors.write(scratch, blocks, (truth.size - len(out), truth.dimension)), truth.rows(out)


def _measure(
    scratch: Path,
    truth: ExactVectors,
    planned: IndexSpec,
    plan: MeasurementPlan,
    queries: Vectors,
    expected: NDArray[np.int64],
) -> Iterator[MeasuredIndex]:
    """Build an index of one recipe, and yield a measurement for each effort."""
    started = time.perf_counter()
    packing = QuantisationParams.from_recipe(planned, plan.codes, truth.dimension)
    index = kinds.write(scratch, truth, planned, packing, kinds.default(planned))
    seconds = time.perf_counter() - started
    hot = round((scratch / STAGE).stat().st_size / truth.size + plan.grouping, 1)
    for effort in efforts(planned, truth.size):
        recall, rate, p99 = measure_effort(index, queries, effort, expected)
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
    """Return the efforts to measure, from fast to thorough."""
    if planned.kind is IndexKind.FLAT:
        return [SearchEffort()]
    by_oversample = [SearchEffort(oversample=times) for times in _OVERSAMPLES[planned.kind]]
    if planned.kind in (IndexKind.HNSW_SQ8, IndexKind.HNSW_RABITQ):
        # ef_search values below the number of candidates behave like that number, so they are left out.
        pairs = ((each, ef) for each in by_oversample for ef in _EF_SEARCH if ef >= each.candidates(K))
        return [msgspec.structs.replace(each, ef_search=ef) for each, ef in pairs]
    if lists := recipe.lists(planned.kind, size):
        most = min(lists, LIMITS["nprobe"][1])
        probes = sorted({max(1, most // share) for share in _NPROBE_SHARES})
        return [msgspec.structs.replace(each, nprobe=nprobe) for each in by_oversample for nprobe in probes]
    return by_oversample


def measure_effort(
    index: Index, queries: Vectors, effort: SearchEffort, expected: NDArray[np.int64]
) -> tuple[MeanInterval, float, float]:
    """Return recall@10, queries per second in one batch, and the p99 in seconds of single queries, on one thread."""
    with threadpool_limits(1, user_api="blas"):
        index.search(queries[:10], K, effort=effort)
        started = time.perf_counter()
        actual = index.search(queries, K, effort=effort).rows
        rate = len(queries) / (time.perf_counter() - started)
        p99 = _p99(index, queries[:_SINGLE], effort)
    return measure.interval(*overlap(actual, expected)), rate, p99


def _p99(index: Index, queries: Vectors, effort: SearchEffort) -> float:
    seconds = np.empty(len(queries))
    for place in range(len(queries)):
        started = time.perf_counter()
        index.search(queries[place : place + 1], K, effort=effort)
        seconds[place] = time.perf_counter() - started
    return float(np.quantile(seconds, 0.99))


def _chosen(measured: Sequence[MeasuredIndex], goals: IndexGoals, size: int) -> int:
    """Return the position of the cheapest candidate that meets the goals; if none does, of the nearest one."""
    return min(
        range(len(measured)),
        key=lambda at: (sum(missed_goals(measured[at], goals, size).values()), _cost(measured[at])),
    )


def _cost(candidate: MeasuredIndex) -> float:
    return candidate.hot_bytes / candidate.queries_per_second


def missed_goals(candidate: MeasuredIndex, goals: IndexGoals, size: int) -> dict[str, float]:
    """Return the goals that the candidate misses, and by which share. Memory is for `size` vectors."""
    recall = (goals.recall - candidate.recall.low) / max(1e-9, 1 - min(goals.recall, 0.999))
    shares = {"recall": recall}
    if goals.memory_bytes is not None:
        shares["memory"] = candidate.hot_bytes * size / goals.memory_bytes - 1
    if goals.latency_seconds is not None:
        shares["latency"] = candidate.p99_seconds / goals.latency_seconds - 1
    return {goal: share for goal, share in shares.items() if share > 0}


def _message(choice: IndexChoice, missed: dict[str, float], size: int) -> str:
    nearest, goals = choice.measured[choice.chosen], choice.goals
    memory = f"{_megabytes(nearest.hot_bytes * size)} ({nearest.hot_bytes:,.1f} bytes per vector)"
    reasons = {
        "recall": f"recall {nearest.recall.low:.4f} (lower bound), not {goals.recall:g}",
        "memory": f"memory {memory}, not {_megabytes(goals.memory_bytes or 0)}",
        "latency": f"p99 {nearest.p99_seconds * 1e3:.2f} ms, not {(goals.latency_seconds or 0) * 1e3:g} ms",
    }
    return (
        f"no index meets all goals: the nearest is {nearest.recipe} with effort {nearest.effort}, but it has "
        f"{'; '.join(reasons[goal] for goal in missed)}. Relax a goal; more --queries make the recall bound tighter"
    )


def _megabytes(count: float) -> str:
    return f"{count / 1e6:,.1f} MB"
