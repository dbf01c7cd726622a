from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from embedship.bundle import MachineInfo
from embedship.codes import Vectors
from embedship.encoder import Encoder
from embedship.errors import UsageError
from embedship.serve.index import IndexKind, recipe
from embedship.serve.index.effort import SearchEffort
from embedship.serve.index.exact_vectors import ExactVectors
from embedship.serve.index.manifest import IndexChoice, IndexGoals, MeanInterval, MeasuredIndex, frontier, grouping
from embedship.serve.index.recipe import IndexSpec, RerankStore
from embedship.serve.indexing import goals
from embedship.serve.indexing.goals import GoalsMissed, MeasurementPlan
from embedship.serve.indexing.measure import interval

from ..index.conftest import Texts


def test_an_interval_counts_queries_and_not_hits() -> None:
    """Twenty queries that find all and two that find nothing are 22 trials, not 220."""
    right, wanted = np.array([10] * 20 + [0] * 2), np.full(22, 10)
    clustered = interval(right, wanted)
    assert clustered.mean == pytest.approx(20 / 22)
    # Clopper and Pearson for about 20 of 22: 0.708 to 0.989.
    assert (clustered.low, clustered.high) == (pytest.approx(0.70, abs=0.02), pytest.approx(0.99, abs=0.01))
    spread = interval(np.array([9] * 20 + [10] * 2), wanted)  # the same share of hits, spread over all queries
    assert spread.low > clustered.low + 0.1


def test_perfect_queries_prove_no_more_than_their_number() -> None:
    """The exact lower limit of n of n is 0.025^(1/n)."""
    assert interval(np.full(200, 10), np.full(200, 10)) == MeanInterval(
        mean=1, low=pytest.approx(0.025 ** (1 / 200)), high=1
    )  # type: ignore[arg-type]
    nothing = interval(np.zeros(50, dtype=np.int64), np.full(50, 10))
    assert (nothing.mean, nothing.low) == (0, 0)
    assert nothing.high < 0.1


def plan(encoder: Encoder, *kinds: IndexKind, size: int) -> MeasurementPlan:
    codes = encoder.bundle.manifest.codes
    return MeasurementPlan([recipe.of(kind, size, 384, RerankStore.FLOAT16) for kind in kinds], codes, lambda *_: None)


def test_the_cheapest_that_meets_the_goals(encoder: Encoder, texts: Texts, tmp_path: Path) -> None:
    truth = ExactVectors.write(tmp_path, [texts.documents], texts.documents.shape)
    both = plan(encoder, IndexKind.FLAT, IndexKind.PQ, size=truth.size)
    rough = goals.choose(tmp_path, truth, texts.queries, "q.jsonl", IndexGoals(recall=0.8), both)
    assert rough.measured[rough.chosen].recipe.kind is IndexKind.PQ
    perfect = goals.choose(tmp_path, truth, texts.queries, "q.jsonl", IndexGoals(recall=1), both)
    assert perfect.measured[perfect.chosen].recipe.kind is IndexKind.FLAT
    recalls = [each.recall.mean for each in rough.measured if each.recipe.kind is IndexKind.PQ]
    assert recalls == sorted(recalls)
    assert recalls[0] + 0.02 < recalls[-1], "effort finds more"
    assert rough.documents == len(texts.documents)
    assert [path.name for path in tmp_path.iterdir()] == ["vectors.f16.npy"]


def test_sampled_documents_do_not_find_themselves(encoder: Encoder, texts: Texts, tmp_path: Path) -> None:
    """They are left out of what is measured: else every first hit would be the query itself."""
    truth = ExactVectors.write(tmp_path, [texts.documents], texts.documents.shape)
    found = goals.choose(
        tmp_path, truth, None, "", IndexGoals(recall=0.5), plan(encoder, IndexKind.FLAT, size=truth.size)
    )
    assert (found.documents + found.queries, found.source) == (len(texts.documents), "documents")
    assert found.queries == len(texts.documents) // 10


def test_memory_is_that_of_the_index_that_is_kept(encoder: Encoder, texts: Texts, tmp_path: Path) -> None:
    """Without questions a tenth of the documents is left out of what is measured, and not of what is built."""
    truth = ExactVectors.write(tmp_path, [texts.documents], texts.documents.shape)
    flat = plan(encoder, IndexKind.FLAT, size=truth.size)
    measured = truth.size - truth.size // 10
    between = int(768 * (measured + truth.size) / 2)
    with pytest.raises(GoalsMissed, match=f"but its memory {768 * truth.size / 1e6:,.1f} MB"):
        goals.choose(tmp_path, truth, None, "", IndexGoals(recall=0.5, memory_bytes=between), flat)
    enough = IndexGoals(recall=0.5, memory_bytes=770 * truth.size)
    assert goals.choose(tmp_path, truth, None, "", enough, flat).documents == measured


def test_memory_of_chunks_says_whose_they_are(encoder: Encoder, texts: Texts, tmp_path: Path) -> None:
    truth = ExactVectors.write(tmp_path, [texts.documents], texts.documents.shape)
    of_chunks = msgspec.structs.replace(
        plan(encoder, IndexKind.FLAT, size=truth.size), grouping=grouping(truth.size, 9)
    )
    wanted = IndexGoals(recall=0.5, memory_bytes=770 * truth.size)
    with pytest.raises(GoalsMissed, match=r"but its memory .* \(77[0-9.]+ bytes a vector\)"):
        goals.choose(tmp_path, truth, texts.queries, "q", wanted, of_chunks)


def test_goals_that_contradict_each_other(encoder: Encoder, texts: Texts, tmp_path: Path) -> None:
    truth = ExactVectors.write(tmp_path, [texts.documents], texts.documents.shape)
    wanted = IndexGoals(recall=1.0, memory_bytes=100_000)
    with pytest.raises(GoalsMissed, match=r"nearest comes .* but its (recall|memory) .* Relax a goal") as missed:
        goals.choose(
            tmp_path, truth, texts.queries, "q", wanted, plan(encoder, IndexKind.FLAT, IndexKind.PQ, size=truth.size)
        )
    assert len(missed.value.choice.measured) > 2


def test_too_few_to_leave_any_out(encoder: Encoder, texts: Texts, tmp_path: Path) -> None:
    truth = ExactVectors.write(tmp_path, [texts.documents[:9]], (9, 384))
    with pytest.raises(UsageError, match="9 vectors are too few"):
        goals.choose(tmp_path, truth, None, "", IndexGoals(recall=0.5), plan(encoder, IndexKind.FLAT, size=9))


def test_every_kind_is_a_candidate_and_matryoshka_stages_too(encoder: Encoder) -> None:
    pipeline = encoder.bundle.manifest.pipeline
    plain = goals.recipes(10_000, pipeline, RerankStore.INT8)
    assert {each.kind for each in plain} == set(IndexKind) - {IndexKind.FACTORY}
    cuttable = msgspec.structs.replace(pipeline, dimensions=(384, 128, 32))
    more = [each for each in goals.recipes(10_000, cuttable, RerankStore.INT8) if each not in plain]
    assert [(each.kind, each.dimension) for each in more] == [(IndexKind.PQ, 128), (IndexKind.HNSW_SQ8, 128)]
    odd = msgspec.structs.replace(pipeline, dimension=30, dimensions=(30,))
    assert {IndexKind.BINARY, IndexKind.PQ, IndexKind.IVF_PQ}.isdisjoint(
        each.kind for each in goals.recipes(10_000, odd, RerankStore.INT8)
    )


def candidate(recall: float, rate: float, hot: float) -> MeasuredIndex:
    planned = IndexSpec(kind=IndexKind.PQ, factory="PQ4x4fs", dimension=16, store=RerankStore.INT8)
    return MeasuredIndex(
        recipe=planned,
        effort=SearchEffort(oversample=1),
        recall=MeanInterval(mean=recall, low=recall, high=recall),
        queries_per_second=rate,
        p99_seconds=0.001,
        hot_bytes=hot,
        build_seconds=1,
    )


def test_the_frontier_is_what_nothing_else_beats() -> None:
    best, slow, small, worse = (
        candidate(0.9, 10, 50),
        candidate(0.95, 5, 50),
        candidate(0.8, 9, 10),
        candidate(0.8, 9, 60),
    )

    def shown(chosen: int) -> list[int]:
        machine = MachineInfo(cpu="any", isa=(), cores=1)
        return frontier(
            IndexChoice(
                goals=IndexGoals(recall=0.5), machine=machine, queries=1, source="q", documents=1, chosen=chosen,
                measured=(best, slow, small, worse),
            )
        )  # fmt: skip

    assert shown(0) == [0, 1, 2]
    assert shown(3) == [0, 1, 2, 3], "the chosen one is always there"


def test_vectors_are_only_read(encoder: Encoder, clustered: Vectors, tmp_path: Path) -> None:
    truth = ExactVectors.write(tmp_path, [clustered[:500]], (500, 64))
    before = (tmp_path / "vectors.f16.npy").read_bytes()
    planned = MeasurementPlan(
        [recipe.of(IndexKind.HNSW_SQ8, 500, 64, RerankStore.FLOAT16)], encoder.bundle.manifest.codes, lambda *_: None
    )
    goals.choose(tmp_path, truth, None, "", IndexGoals(recall=0.5), planned)
    assert (tmp_path / "vectors.f16.npy").read_bytes() == before
