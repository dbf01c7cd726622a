import numpy as np
import pytest

from embedship.monitor.drift.detector import DriftDetector
from embedship.monitor.drift.false_alarms import DAY_SECONDS, FalseAlarms
from embedship.monitor.drift.offline import BLOCK_QUERIES, BLOCKS, LoggedQueries, compare
from embedship.monitor.drift.reference import DriftReference
from embedship.monitor.errors import InvalidVectors
from embedship.monitor.state import SignalState
from embedship.monitor.statistics import ks_2samp

D = 16
START = 1.79e9
CENTRES = 4 * np.random.default_rng(1).normal(size=(6, D))


def drawn(weights, n, seed):
    random = np.random.default_rng(seed)
    topics = random.choice(len(weights), n, p=np.array(weights) / sum(weights))
    return (CENTRES[topics] + random.normal(size=(n, D))).astype(np.float32)


def times(n):
    return START + np.arange(n) * 60.0


KNOWN, NEW = [1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 1]
REFERENCE = DriftReference.fit(drawn(KNOWN, 1_000, 0), "f00d", times=times(1_000) - 1e6)
QUIET = compare(REFERENCE, LoggedQueries(drawn(KNOWN, 900, 1), times=times(900)), named=2)


def late(begins):
    """A tenth of the queries is of a new topic, from one query on."""
    vectors = drawn(KNOWN, 900, 2)
    new = begins + 3 * np.arange((900 - begins) // 3)
    vectors[new] = drawn(NEW, len(new), 3)
    return LoggedQueries(vectors, times=times(900))


def test_the_same_topics_are_no_drift():
    assert (QUIET.state, QUIET.since) == (SignalState.OK, 0.0)
    assert QUIET.mmd.pvalue > 0.05
    assert QUIET.evidence.far.now == pytest.approx(QUIET.evidence.far.then, abs=0.03)


def test_statistics_are_those_of_the_ks_test():
    tests = ks_2samp(REFERENCE.vectors, drawn(KNOWN, 900, 1))
    assert QUIET.statistics == tuple(tests.statistic)
    assert QUIET.pvalues == tuple(tests.pvalue)


def test_blocks_cut_the_time_into_equal_parts():
    assert len(QUIET.blocks) == 900 // BLOCK_QUERIES
    assert {block.queries for block in QUIET.blocks} == {BLOCK_QUERIES}
    assert QUIET.blocks[0].start == START
    assert all(a.end < b.start for a, b in zip(QUIET.blocks, QUIET.blocks[1:], strict=False))


def test_a_late_beginning_is_found_in_its_block():
    found = compare(REFERENCE, late(750))
    assert found.state is SignalState.WARN
    assert found.since == START + 750 * 60
    assert [block.state for block in found.blocks] == [SignalState.OK] * 5 + [SignalState.WARN]


def test_without_times_there_are_no_blocks_and_the_whole_budget_is_one_test():
    found = compare(REFERENCE, LoggedQueries(late(0).vectors))
    assert (found.state, found.blocks, found.since) == (SignalState.WARN, (), 0.0)
    assert found.report.threshold < compare(REFERENCE, late(0)).report.threshold


def test_many_queries_make_no_more_than_so_many_blocks():
    n = (BLOCKS + 3) * BLOCK_QUERIES
    assert len(compare(REFERENCE, LoggedQueries(drawn(KNOWN, n, 4), times=times(n))).blocks) == BLOCKS


def test_too_few_queries_are_unknown():
    found = compare(REFERENCE, LoggedQueries(drawn(KNOWN, 60, 5), times=times(60)))
    assert found.state is SignalState.UNKNOWN
    assert "100 needed" in found.report.reason
    assert (found.mmd, found.statistics, found.blocks) == (None, (), ())


def test_the_furthest_queries_are_named():
    found = compare(REFERENCE, LoggedQueries(late(0).vectors, texts=tuple(map(str, range(900)))), named=3)
    assert len(found.evidence.queries) == 3
    assert all(int(each.text) % 3 == 0 for each in found.evidence.queries), "every third is new"


def test_a_change_of_variant_alone_is_no_drift():
    moved = drawn(KNOWN, 1_000, 0) + np.float32(0.3)
    fitted = DriftReference.fit(drawn(KNOWN, 1_000, 0), "f00d", variants={"int8": moved})
    log = LoggedQueries(drawn(KNOWN, 900, 6) + np.float32(0.3))
    assert compare(fitted, log, variant="int8").state is SignalState.OK
    assert compare(fitted, log).state is SignalState.WARN


def test_false_alarms_are_within_the_budget():
    """At one in five runs, 60 runs without drift may alarm 12 times; 20 is 2.6 standard deviations more."""
    budget = FalseAlarms(1, 5 * DAY_SECONDS)
    alarms = sum(
        compare(REFERENCE, LoggedQueries(drawn(KNOWN, 320, 100 + i), times=times(320)), false_alarms=budget).state
        is SignalState.WARN
        for i in range(6)
    )
    assert alarms <= 4


@pytest.mark.parametrize("column", ["sessions", "times", "texts"])
def test_a_part_keeps_its_columns_together(column):
    current = LoggedQueries(drawn(KNOWN, 9, 0), np.arange(9), times(9), tuple("abcdefghi"))
    part = current.part(2, 5)
    assert list(getattr(part, column)) == list(getattr(current, column))[2:5]
    assert len(part) == 3


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda rows: rows * 7, "row 0 has length 7"),
        (lambda rows: (rows * 127).astype(np.int8), "int8, which are codes"),
        (lambda rows: rows[:, :8], "do not fit a reference of 16 dimensions"),
        (lambda rows: np.where(np.arange(len(rows))[:, None] == 5, np.nan, rows), "first in row 5"),
    ],
)
def test_vectors_that_are_none_of_the_model_are_refused(change, reason):
    """By every function that compares, and never called drift."""
    reference = DriftReference.fit(unit(drawn(KNOWN, 1_000, 0)), "f00d")
    changed = change(unit(drawn(KNOWN, 900, 1)))
    with pytest.raises(InvalidVectors, match=reason):
        compare(reference, LoggedQueries(changed))
    with pytest.raises(InvalidVectors, match=reason):
        DriftDetector(reference, window=900).update(changed)


def test_a_reference_of_codes_is_refused():
    with pytest.raises(InvalidVectors, match="int8, which are codes"):
        DriftReference.fit((drawn(KNOWN, 100, 0) * 20).astype(np.int8), "f00d")


def test_a_model_that_does_not_normalise_is_compared_at_any_length():
    assert compare(REFERENCE, LoggedQueries(7 * drawn(KNOWN, 900, 1))).state is SignalState.WARN
