import hashlib

import numpy as np
import pytest
from scipy import stats

from embedship.monitor.drift.evidence import DIMENSIONS, DriftEvidence, ReferenceClusters
from embedship.monitor.drift.window import QueryWindow

D = 24
RANDOM = np.random.default_rng(5)
CENTRES = 6 * np.linalg.qr(RANDOM.normal(size=(D, D)))[0][:6]  # six topics, far apart


def drawn(weights, n, seed):
    random = np.random.default_rng(seed)
    topics = random.choice(len(weights), n, p=np.array(weights) / sum(weights))
    return (CENTRES[topics] + random.normal(size=(n, D))).astype(np.float32), topics


def window(vectors, texts=None):
    n = len(vectors)
    return QueryWindow(vectors, np.arange(n) + 1e9, np.full(n, -1), texts or (None,) * n)


REFERENCE, TOPICS = drawn([2, 1, 1, 1, 1, 0], 1_200, seed=0)
KNOWN = ReferenceClusters.fit(REFERENCE)


def test_clusters_are_the_topics():
    """Every cluster lies within one topic: six true centres, up to sixteen clusters."""
    nearest = ((REFERENCE[:, None] - KNOWN.centres[None]) ** 2).sum(2).argmin(1)
    for cluster in range(len(KNOWN.centres)):
        assert len(set(TOPICS[nearest == cluster])) == 1
    assert KNOWN.shares.sum() == pytest.approx(1)


def topic_of(cluster):
    return int(((CENTRES - KNOWN.centres[cluster]) ** 2).sum(1).argmin())


def test_topics_gained_and_lost_are_named_with_their_shares():
    now, _ = drawn([2, 1, 1, 0, 5, 0], 900, seed=1)
    found = KNOWN.compare(window(now))
    assert {topic_of(each.cluster) for each in found.gained} == {4}
    assert topic_of(found.lost[0].cluster) == 3
    assert all(each.now > each.then for each in found.gained)
    assert all(each.now < each.then for each in found.lost)
    assert found.lost[0].now == 0


def test_without_drift_little_is_far_and_a_new_topic_is():
    same, _ = drawn([2, 1, 1, 1, 1, 0], 900, seed=2)
    far = KNOWN.compare(window(same)).far
    assert far.now < 0.05
    assert far.then == pytest.approx(far.now, abs=0.01)
    new, _ = drawn([2, 1, 1, 1, 1, 3], 900, seed=3)
    assert KNOWN.compare(window(new)).far.now == pytest.approx(1 / 3, abs=0.05)


@pytest.mark.parametrize("n", [200, 400, 1_200])
def test_what_is_usual_is_what_new_queries_show(n):
    """A small reference knows its topics badly: a tenth of its own kind seems far to it, and that is no drift."""
    random = np.random.default_rng(n)
    far = ReferenceClusters.fit(random.normal(size=(n, 128)).astype(np.float32)).compare(
        window(random.normal(size=(4_000, 128)).astype(np.float32))
    ).far  # fmt: skip
    assert far.now > 0.02
    assert far.then == pytest.approx(far.now, rel=0.5)


def test_the_dimensions_that_moved_with_their_direction_and_distance():
    now = REFERENCE.copy()
    now[:, 7] += 3
    now[:, 11] -= 2
    found = KNOWN.compare(window(now)).dimensions
    assert [each.dimension for each in found[:2]] == [7, 11]
    assert found[0].shift > 0 > found[1].shift
    assert len(found) == DIMENSIONS
    for each in found[:2]:
        column = each.dimension
        assert each.statistic == pytest.approx(stats.ks_2samp(REFERENCE[:, column], now[:, column]).statistic)
        expected = (now[:, column].mean() - REFERENCE[:, column].mean()) / REFERENCE[:, column].std()
        assert each.shift == pytest.approx(expected, rel=1e-3)


def test_the_queries_that_drifted_most_are_hashes_and_distances():
    same, _ = drawn([1, 1, 1, 1, 1, 0], 50, seed=4)
    new, _ = drawn([0, 0, 0, 0, 0, 1], 3, seed=5)
    vectors = np.concatenate([same, new, new])
    found = KNOWN.compare(window(vectors), 3).queries
    assert {each.id for each in found} == {hashlib.sha256(row.tobytes()).hexdigest()[:12] for row in new}
    unit = REFERENCE / np.linalg.norm(REFERENCE, axis=1, keepdims=True)
    expected = sorted((1 - (unit @ row / np.linalg.norm(row)).max() for row in new), reverse=True)
    assert [each.distance for each in found] == pytest.approx(expected, abs=1e-5)
    assert all(each.text is None for each in found)
    assert found[0].at.startswith("2001-09-09T01:4")
    texts = tuple(f"text {i}" for i in range(len(vectors)))
    assert {each.text for each in KNOWN.compare(window(vectors, texts), 3).queries} <= set(texts[50:])


def test_nothing_is_named_unless_asked():
    assert KNOWN.compare(window(REFERENCE)).queries == ()
    assert DriftEvidence().far is None


@pytest.mark.parametrize("rows", [1, 2, 30, 60])
def test_small_and_degenerate_references(rows):
    for vectors in (REFERENCE[:rows], np.ones((rows, D), np.float32)):
        found = ReferenceClusters.fit(vectors).compare(window(REFERENCE[:20]), 2)
        assert len(found.queries) == 2
        assert np.isfinite([each.shift for each in found.dimensions]).all()
