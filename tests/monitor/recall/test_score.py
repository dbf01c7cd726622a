from itertools import permutations

import ir_measures
import numpy as np
import pytest

from embedship.monitor.recall.score import score


def reference(answered, relevant, k):
    """nDCG@k with gains and discounts as arrays, and recall by counting."""
    gains = np.isin(answered[:k], list(relevant)).astype(float)
    discounts = 1 / np.log2(np.arange(2, 2 + len(gains)))
    ideal = (1 / np.log2(np.arange(2, 2 + min(len(relevant), k)))).sum()
    return int(gains.sum()), min(len(relevant), k), float(gains @ discounts / ideal)


@pytest.mark.parametrize("k", [1, 3, 10])
@pytest.mark.parametrize("relevant", [{1}, {1, 2}, {1, 2, 3, 9}, set(range(20))])
def test_every_ranking_of_five_against_the_reference(relevant, k):
    for answered in permutations(range(5)):
        found = score(answered, relevant, k)
        assert found[:2] == reference(answered, relevant, k)[:2]
        assert found.ndcg == pytest.approx(reference(answered, relevant, k)[2])


def test_a_document_found_by_several_chunks_counts_once():
    assert score(["a", "a", "a"], ["a"]) == (1, 1, 1.0)
    assert score(["a", "a", "a"], ["a", "b", "c"])[:2] == (1, 3)
    assert score(["a", "a", "b"], ["b"], k=2) == score(["a", "b"], ["b"], k=2)


def test_a_perfect_ranking_scores_one_and_a_wrong_one_zero():
    assert score(["a", "b"], ["b", "a"]) == (2, 2, 1.0)
    assert score(["x"], ["a"]) == (0, 1, 0.0)
    assert score([], ["a"]) == (0, 1, 0.0)


def test_a_label_given_twice_counts_once():
    assert score(["a"], ["a", "a"]) == (1, 1, 1.0)


@pytest.mark.parametrize("k", [1, 3, 10])
def test_scores_agree_with_ir_measures_also_for_queries_without_an_answer(k):
    rng = np.random.default_rng(k)
    documents = [f"d{n}" for n in range(30)]
    # Rankings of no document up to 20; some documents occur twice, for two of their chunks.
    rankings = {f"q{n}": rng.choice(documents, n % 21).tolist() for n in range(60)}
    relevant = {query: set(rng.choice(documents, 1 + n % 15, replace=False)) for n, query in enumerate(rankings)}
    run = {q: {d: -rank for rank, d in enumerate(dict.fromkeys(hits))} for q, hits in rankings.items() if hits}
    qrels = {query: dict.fromkeys(wanted, 1) for query, wanted in relevant.items()}
    measured = {
        (m.query_id, m.measure): m.value
        for m in ir_measures.iter_calc([ir_measures.nDCG @ k, ir_measures.P @ k, ir_measures.R @ k], qrels, run)
    }
    assert len(run) < len(rankings), "some queries have no answer"
    for query, hits in rankings.items():
        found = score(hits, relevant[query], k)
        assert found.ndcg == pytest.approx(measured[query, ir_measures.nDCG @ k])
        assert found.found / k == pytest.approx(measured[query, ir_measures.P @ k])
        if len(relevant[query]) <= k:  # with more, our recall expects only the k that a ranking can contain
            assert found.found / found.expected == pytest.approx(measured[query, ir_measures.R @ k])
