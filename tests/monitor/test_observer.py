import gc
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from threading import Event, get_ident

import msgspec
import numpy as np
import pytest

from embedship.monitor.drift.detector import DriftDetector, DriftRule
from embedship.monitor.drift.reference import DriftReference
from embedship.monitor.drift.window import QueryWindow
from embedship.monitor.errors import InvalidSetting
from embedship.monitor.failures import FailureCounts
from embedship.monitor.observer import ObserverReport, QueryObserver
from embedship.monitor.state import SignalState

D, LONG = 16, 120.0  # LONG: seconds after which a test has failed; nothing waits that long when all is well
RANDOM = np.random.default_rng(0)
REFERENCE = DriftReference.fit(RANDOM.normal(size=(200, D)).astype(np.float32), "abc")
DOCUMENTS = RANDOM.normal(size=(40, D)).astype(np.float32)


def queries(n, seed=1):
    return np.random.default_rng(seed).normal(size=(n, D)).astype(np.float32)


def exact(vectors, k):
    return np.argsort(-vectors @ DOCUMENTS.T, axis=1)[:, :k]


class Gate:
    """An exact search that waits to be let through."""

    def __init__(self):
        self.entered, self.opened = Event(), Event()

    def __call__(self, vectors, k):
        self.entered.set()
        assert self.opened.wait(LONG)
        return exact(vectors, k)


class Clock:
    def __init__(self):
        self.now = 1_000.0

    def __call__(self):
        return self.now


def test_queries_that_come_alone_may_be_of_one_session():
    """A server is not told: what it sees of users with sessions must not count as so many independent users."""
    random = np.random.default_rng(0)

    def related(sessions):
        rows = np.repeat(random.normal(size=(sessions, 64)), 4, axis=0) + 0.3 * random.normal(size=(4 * sessions, 64))
        return rows.astype(np.float32)

    reference = DriftReference.fit(related(150), "abc", sessions=np.repeat(np.arange(150), 4), window=400)
    window = related(100)
    told = DriftDetector(reference, window=400)
    told.update(window, np.repeat(np.arange(100), 4))
    with QueryObserver(reference, None, window=400) as observer:
        for query in window:
            observer.observe(query[None])
        assert observer.flush(LONG)
        report = observer.report().drift
    assert report.score == pytest.approx(told.evaluate().score, rel=0.2)
    assert report.effective < 200  # of 400 queries


def test_recall_against_the_exact_search():
    vectors = queries(60)
    ids = exact(vectors, 10)
    ids[:20, 0] = -1  # the index missed the best hit of 20 queries
    ids[5] = ids[5][::-1]  # order within the top 10 does not matter
    with QueryObserver(None, exact, shadow_rate=1.0) as observer:
        observer.observe(vectors[:30], ids[:30])
        observer.observe(vectors[30:], ids[30:])
        assert observer.flush(LONG)
        recall = observer.report().shadow.recall
    assert (recall.queries, recall.found, recall.expected) == (60, 580, 600)


def test_an_index_smaller_than_k_expects_what_there_is():
    def few(vectors, k):
        return np.tile(np.array([[2, 1] + [-1] * (k - 2)]), (len(vectors), 1))

    with QueryObserver(None, few, shadow_rate=1.0) as observer:
        observer.observe(queries(3), few(queries(3), 10))
        observer.observe(queries(1), np.array([[1] + [-1] * 9]))
        assert observer.flush(LONG)
        recall = observer.report().shadow.recall
    assert (recall.queries, recall.found, recall.expected) == (4, 7, 8)


@pytest.mark.parametrize("ids", [None, np.zeros((5, 9), dtype=np.int64)])
def test_queries_without_k_hits_asked_for_are_left_out_of_recall(ids):
    with QueryObserver(REFERENCE, exact, shadow_rate=1.0) as observer:
        observer.observe(queries(5), ids)
        assert observer.flush(LONG)
        report = observer.report()
    assert report.shadow.recall.queries == 0
    assert report.drift.samples == 5
    assert observer.faults.failures == FailureCounts()


def test_more_hits_than_k_count_the_first_k():
    vectors = queries(4)
    with QueryObserver(None, exact, shadow_rate=1.0, k=5) as observer:
        observer.observe(vectors, exact(vectors, 10)[:, ::-1])  # ranks 10 to 6 first
        assert observer.flush(LONG)
        recall = observer.report().shadow.recall
    assert (recall.found, recall.expected, recall.k) == (0, 20, 5)


@pytest.mark.parametrize(("shift", "state"), [(0.0, SignalState.OK), (2.0, SignalState.WARN)])
def test_drift_is_evaluated(shift, state):
    with QueryObserver(REFERENCE, None, fingerprint="abc", rule=DriftRule.TEN_PERCENT) as observer:
        assert observer.report().drift.state is SignalState.UNKNOWN
        observer.observe(queries(200) + np.float32(shift))
        assert observer.flush(LONG)
        drift = observer.report().drift
    assert (drift.state, drift.samples, drift.rule) == (state, 200, DriftRule.TEN_PERCENT)


def test_another_models_reference_is_unknown():
    with QueryObserver(REFERENCE, None, fingerprint="xyz") as observer:
        observer.observe(queries(200))
        assert observer.flush(LONG)
        assert observer.report().drift.state is SignalState.UNKNOWN


@pytest.mark.parametrize("step", [61, -500])
def test_drift_is_evaluated_when_the_interval_is_over_or_the_clock_was_set_back(step):
    clock = Clock()
    gate = Gate()
    with QueryObserver(REFERENCE, gate, shadow_rate=1.0, interval_seconds=60, clock=clock) as observer:
        observer.observe(queries(150), exact(queries(150), 10))
        assert gate.entered.wait(LONG)
        before = observer.report().evaluations  # 1 if the thread began before the sample came
        clock.now += step  # while the thread works on the sample: due as soon as that is done
        gate.opened.set()
        assert observer.flush(LONG)
        report = observer.report()
    assert report.evaluations == before + 2  # the one that was due, and the flush
    assert report.evaluated_at == 1_000 + step
    assert report.evaluation_seconds > 0


def test_drift_is_evaluated_without_traffic():
    evaluated = Event()

    class Ticking(Clock):
        def __call__(self):
            self.now += 0.01
            if observer is not None and observer._evaluations:
                evaluated.set()
            return self.now

    observer = None
    observer = QueryObserver(None, None, interval_seconds=0.02, clock=Ticking())
    with observer:
        assert evaluated.wait(LONG)


def test_what_a_test_needs_is_fitted_on_the_thread_and_what_was_remembered_is_tested_there():
    """A server is not ready before both of these return: the observer is made, and it remembers."""
    evaluated = Event()

    class Watching(Clock):
        def __call__(self):
            if observer is not None and observer._evaluations:
                evaluated.set()
            return self.now

    observer = None
    observer = QueryObserver(REFERENCE, None, fingerprint="abc", interval_seconds=1e9, clock=Watching())
    detector = observer._drift._detector
    window = QueryWindow(queries(200), np.full(200, 990.0), np.full(200, -1), (None,) * 200)
    observer.remember(None, window)
    drift = observer.report().drift
    assert (drift.state, drift.reason, drift.samples) == (SignalState.UNKNOWN, "not tested yet", 200)
    assert detector._fitted is None
    with observer:
        assert evaluated.wait(LONG)
        drift = observer.report().drift
    assert (drift.state, drift.samples) == (SignalState.OK, 200)


def test_a_new_observer_evaluates_at_once_however_long_its_interval_is():
    """After a reload nobody may take it for one that stands still; nothing was remembered, and nobody asks."""
    evaluated = Event()

    class Watching(Clock):
        def __call__(self):
            if observer is not None and observer._evaluations:
                evaluated.set()
            return self.now

    observer = None
    observer = QueryObserver(REFERENCE, None, interval_seconds=1e9, clock=Watching())
    with observer:
        assert evaluated.wait(LONG)
    assert observer.report().evaluated_at == 1_000.0


def test_the_reference_is_fitted_before_the_first_query():
    with QueryObserver(REFERENCE, None) as observer:
        assert observer.flush(LONG)
        assert observer.report().drift.reason == "0 distinct queries, 100 needed"
        assert observer._drift._detector._fitted is not None


def sampled(seed, calls):
    counts = []
    with QueryObserver(REFERENCE, exact, sample_rate=0.3, shadow_rate=0.1, seed=seed, window=2_000) as observer:
        for part in np.array_split(queries(1_000), calls):
            observer.observe(part, exact(part, 10))
            assert observer.flush(LONG)
            report = observer.report()
            counts.append((report.drift.samples, report.shadow.recall.queries))
    return counts


def test_sampling_is_seeded_and_has_its_rates():
    first = sampled(1, 4)
    assert first == sampled(1, 4)
    assert first != sampled(2, 4)
    assert sampled(1, 10)[-1] == first[-1]  # how queries are batched does not matter
    drift, recall = first[-1]
    assert abs(drift - 300) < 60
    assert abs(recall - 100) < 40


def test_a_full_queue_drops_and_counts_and_never_blocks():
    gate = Gate()
    with QueryObserver(REFERENCE, gate, shadow_rate=1.0, capacity=10) as observer:
        ids = exact(queries(1), 10)
        observer.observe(queries(1), ids)
        assert gate.entered.wait(LONG)  # the thread is busy from here
        observer.observe(queries(8), np.repeat(ids, 8, axis=0))
        observer.observe(queries(3), np.repeat(ids, 3, axis=0))  # 11 of 10: refused
        observer.observe(queries(2), np.repeat(ids, 2, axis=0))
        observer.observe(queries(1), ids)
        assert observer.report().dropped == 4
        gate.opened.set()
        assert observer.flush(LONG)
        report = observer.report()
    assert (report.seen, report.dropped, report.shadow.recall.queries, report.drift.samples) == (15, 4, 11, 11)


def test_a_call_larger_than_the_queue_gives_its_first_queries():
    with QueryObserver(REFERENCE, None, capacity=10) as observer:
        observer.observe(queries(25))
        assert observer.flush(LONG)
        report = observer.report()
    assert (report.dropped, report.drift.samples) == (15, 10)


def test_queries_are_copied():
    gate = Gate()
    vectors = queries(12)
    with QueryObserver(None, gate, shadow_rate=1.0) as observer:
        ids = exact(vectors, 10)
        observer.observe(vectors[:1], ids[:1])
        assert gate.entered.wait(LONG)
        observer.observe(vectors, ids)
        vectors[:], ids[:] = 0, -1
        gate.opened.set()
        assert observer.flush(LONG)
        assert observer.report().shadow.recall.found == 10 + 120


def test_failures_are_counted_logged_and_survived(caplog):
    fail = True

    def broken(vectors, k):
        if fail:
            raise RuntimeError("index is gone")
        return exact(vectors, k)

    vectors = queries(1)
    with QueryObserver(REFERENCE, broken, shadow_rate=1.0) as observer:
        for _ in range(5):
            observer.observe(vectors, exact(vectors, 10))
        assert observer.flush(LONG)
        report = observer.report()
        assert observer.faults.failures == FailureCounts(recall=5)
        assert report.drift.samples == 5  # one part failing leaves the other alone
        assert [record.exc_info[1].args for record in caplog.records] == [("index is gone",)] * 3  # 1st, 2nd, 4th
        fail = False
        observer.observe(vectors, exact(vectors, 10))
        assert observer.flush(LONG)
        assert observer.report().shadow.recall.queries == 1


def test_what_cannot_be_observed_never_raises():
    with QueryObserver(REFERENCE, exact, shadow_rate=1.0) as observer:
        observer.observe(None)
        observer.observe(queries(2), np.zeros(2, dtype=np.int64))
        observer.observe(queries(2), np.zeros((1, 10), dtype=np.int64))
        observer.observe(queries(2)[:, :3])
        observer.observe(queries(0))
        assert observer.flush(LONG)
        assert observer.faults.failures == FailureCounts(observe=3, drift=1)


def test_a_call_that_cannot_be_tested_costs_the_others_nothing():
    """They are taken together."""
    broken = queries(2)
    broken[0, 0] = np.nan
    with QueryObserver(REFERENCE, None) as observer:
        for call in (queries(3), broken, queries(4)):
            observer.observe(call)
        assert observer.flush(LONG)
        assert observer.report().drift.samples == 7
        assert observer.faults.failures == FailureCounts(drift=1)


def test_an_exact_search_with_too_few_answers_counts_as_a_failure():
    with QueryObserver(None, lambda vectors, k: exact(vectors, k)[:-1], shadow_rate=1.0) as observer:
        observer.observe(queries(3), exact(queries(3), 10))
        assert observer.flush(LONG)
        report = observer.report()
    assert (observer.faults.failures, report.shadow.recall.queries) == (FailureCounts(recall=1), 0)


def test_the_work_is_done_on_another_thread():
    threads = []

    def traced(vectors, k):
        threads.append(get_ident())
        return exact(vectors, k)

    with QueryObserver(None, traced, shadow_rate=1.0) as observer:
        observer.observe(queries(1), exact(queries(1), 10))
        assert observer.flush(LONG)
    assert threads
    assert get_ident() not in threads


def test_many_threads_lose_no_count():
    with QueryObserver(REFERENCE, None, capacity=50, window=5_000) as observer:
        with ThreadPoolExecutor(4) as pool:
            for _ in range(4):
                pool.submit(lambda: [observer.observe(queries(3)) for _ in range(200)])
        assert observer.flush(LONG)
        report = observer.report()
    assert report.seen == 2_400
    assert report.drift.samples + report.dropped == 2_400
    assert observer.faults.failures == FailureCounts()


def test_nothing_is_sampled_where_nothing_can_be_measured():
    observer = QueryObserver(REFERENCE, None, sample_rate=0.0, shadow_rate=1.0, capacity=5)
    observer.observe(queries(50), exact(queries(50), 10))
    assert (observer.report().seen, observer.report().dropped) == (50, 0)


def test_start_close_and_what_comes_too_late():
    observer = QueryObserver(REFERENCE, None)
    observer.observe(queries(3))
    assert not observer.flush(0.0)  # no thread yet
    assert observer.start() is observer.start()
    assert observer.flush(LONG)
    assert observer.report().drift.samples == 3
    thread = observer._thread
    observer.close()
    observer.close()
    assert not thread.is_alive()
    observer.observe(queries(2))
    assert observer.report().dropped == 2
    assert not observer.flush(0.0)


def test_close_counts_what_it_leaves_behind():
    observer = QueryObserver(REFERENCE, None)
    observer.observe(queries(3))
    observer.close()
    assert observer.report().dropped == 3


def test_the_report_is_json():
    report = QueryObserver(REFERENCE, exact).report()
    assert msgspec.json.decode(msgspec.json.encode(report), type=ObserverReport) == report


@pytest.mark.parametrize(
    "settings",
    [{"sample_rate": 1.1}, {"shadow_rate": -0.1}, {"capacity": 0}, {"interval_seconds": 0.0}, {"k": 0}, {"minimum": 0}],
)
def test_settings_out_of_range(settings):
    with pytest.raises(InvalidSetting, match=next(iter(settings))):
        QueryObserver(None, None, **settings)


def test_a_hundred_thousand_queries_take_no_more_memory_than_ten_thousand():
    """Counted by Python's own allocator and numpy's: what is kept is bounded by the capacities."""

    def held(n):
        for _ in range(n // 1_000):
            for _ in range(20):
                observer.observe(vectors, ids, texts)
            assert observer.flush(LONG)
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    vectors, texts = queries(50), [f"text {i}" for i in range(50)]
    ids = exact(vectors, 10)
    settings = {"shadow_rate": 0.01, "window": 500, "keep_texts": 5, "interval_seconds": 1e9}
    with QueryObserver(REFERENCE, exact, **settings) as observer:
        tracemalloc.start()
        try:
            few, many = held(10_000), held(100_000)
        finally:
            tracemalloc.stop()
    assert many - few < 50_000  # bytes; the queries alone were 6.4 MB
