"""The monitor with its real parts: each fault triggers its own signal, and the diagnosis names it."""

import msgspec
import numpy as np
import pytest

from embedship.monitor.canary import CanaryMonitor
from embedship.monitor.diagnosis import BaselineChange, DiagnosisCause
from embedship.monitor.drift.detector import DriftRule
from embedship.monitor.drift.false_alarms import DAY_SECONDS
from embedship.monitor.drift.reference import DriftReference
from embedship.monitor.failures import FailureCounts
from embedship.monitor.monitor import MonitorStatus, QualityMonitor
from embedship.monitor.observer import QueryObserver
from embedship.monitor.recall.feedback import FeedbackRecall
from embedship.monitor.recall.probes import LabelledProbe, ProbeRecall
from embedship.monitor.recall.rolling import RecallBaseline
from embedship.monitor.recall.score import RecallScore
from embedship.monitor.snapshot import NAME
from embedship.monitor.state import SignalState

D, LONG = 16, 120.0
RANDOM = np.random.default_rng(0)
REFERENCE = DriftReference.fit(RANDOM.normal(size=(400, D)).astype(np.float32), "abc")
DOCUMENTS = RANDOM.normal(size=(400, D)).astype(np.float32)
GOLDEN = RANDOM.normal(size=(4, D)).astype(np.float32)
PROBES = [LabelledProbe(f"question {i}", (f"d{i}",)) for i in range(20)]
BEST = RecallBaseline.exact(1.0)
RIGHT, WRONG = RecallScore(1, 1, 1.0), RecallScore(0, 1, 0.0)


class Clock:
    now = 1_000.0

    def __call__(self):
        return self.now


def exact(vectors, k):
    return np.argsort(-vectors @ DOCUMENTS.T, axis=1)[:, :k]


class MonitorHarness:
    """A monitor with the test in the role of the server."""

    def __init__(self, folder=None, index="i", probes="p", model="abc", baseline=BEST):
        self.clock = Clock()
        observer = QueryObserver(
            REFERENCE, exact, fingerprint="abc", rule=DriftRule.TEN_PERCENT, baseline=baseline,
            shadow_rate=1.0, window=500, keep_texts=2, clock=self.clock,
        )  # fmt: skip
        self.watch = QualityMonitor(
            model,
            observer,
            CanaryMonitor(GOLDEN, ["cpu:0"], golden_floor=0.99, clock=self.clock),
            probes=ProbeRecall(PROBES, clock=self.clock),
            feedback=FeedbackRecall(pairs=5, clock=self.clock),
            index=index,
            probe_digest=probes,
            folder=folder,
            clock=self.clock,
        )

    def run_canaries(self, damage=0.0):
        self.watch.canary.record_vectors("cpu:0", GOLDEN + np.float32(damage) * GOLDEN[::-1])

    def search(self, n=300, shift=0.0, missed=0, seed=1):
        vectors = np.random.default_rng(seed).normal(loc=shift, size=(n, D)).astype(np.float32)
        ids = exact(vectors, 10)
        ids[:, :missed] = -1
        self.watch.observer.observe(vectors, ids, [f"secret {i}" for i in range(n)])
        assert self.watch.observer.flush(LONG)

    def replay(self, wrong=0):
        probes = self.watch.probes
        probes.record_replay({number: WRONG if number < wrong else RIGHT for number in probes.order()})

    def judge(self, n=10, right=True):
        for _ in range(n):
            self.watch.feedback.judge([1 if right else 2], {"a": 1}, "secret")

    def status(self):
        return self.watch.report()


@pytest.fixture
def harness():
    made = MonitorHarness()
    with made.watch:
        made.run_canaries()
        made.search()
        made.replay()
        yield made


def states(status):
    return {name: state for name, state in msgspec.structs.asdict(status.diagnosis.signals).items() if state}


def only(signal):
    return {
        name: SignalState.WARN if name == signal else SignalState.OK for name in ("canary", "drift", "shadow", "probe")
    }


def test_without_a_fault_every_signal_is_ok(harness):
    status = harness.status()
    assert states(status) == only(None)
    assert status.diagnosis.cause is DiagnosisCause.NONE
    assert status.failures == FailureCounts()


FAULTS = [
    ("canary", DiagnosisCause.MODEL_CHANGED, lambda harness: harness.run_canaries(damage=0.5)),
    ("drift", DiagnosisCause.USERS_CHANGED, lambda harness: harness.search(shift=1.0)),
    ("shadow", DiagnosisCause.INDEX_DEGRADED, lambda harness: harness.search(missed=3)),
    ("probe", DiagnosisCause.LABELS_STALE, lambda harness: harness.replay(wrong=8)),
]


@pytest.mark.parametrize(("signal", "cause", "fault"), FAULTS)
def test_each_fault_raises_its_own_signal_and_no_other(harness, signal, cause, fault):
    harness.clock.now += 5
    began = harness.status().diagnosis.since
    harness.clock.now += 5
    fault(harness)
    status = harness.status()
    assert states(status) == only(signal)
    assert (status.diagnosis.cause, began, status.diagnosis.since) == (cause, 1_005.0, 1_010.0)
    assert status.began[signal] == 1_010.0
    harness.clock.now += 5
    assert harness.status().diagnosis.since == 1_010.0


def test_one_judgement_does_not_make_the_diagnosis_unknown(harness):
    before = harness.status().diagnosis
    harness.judge()
    assert harness.status().feedback.recall.queries > 0
    assert harness.status().diagnosis == before
    assert before.signals.feedback is None


def test_drift_comes_with_evidence(harness):
    assert harness.status().queries.evidence.queries == ()
    harness.search(shift=1.0)
    evidence = harness.status().queries.evidence
    assert len(evidence.queries) == 10
    assert evidence.queries[0].text.startswith("secret ")
    assert all(each.shift > 0 for each in evidence.dimensions)


def test_the_status_is_json(harness):
    harness.search(shift=1.0)
    status = harness.status()
    assert msgspec.json.decode(msgspec.json.encode(status), type=MonitorStatus) == status


@pytest.fixture
def used(tmp_path):
    """A stopped server that had drift, a fall of recall, replays and feedback."""
    harness = MonitorHarness(tmp_path)
    with harness.watch:
        harness.run_canaries()
        harness.replay()
        harness.judge()
        harness.search(shift=1.0, missed=1)
        harness.clock.now += 100
        return harness.status()


def test_a_restart_keeps_the_state(used, tmp_path):
    after = MonitorHarness(tmp_path)
    after.clock.now = 1_500.0
    after.watch.restore()
    with after.watch:
        assert after.watch.observer.flush(LONG)
        status = after.status()
        assert status.queries.drift.state is SignalState.WARN
        assert status.queries.drift.samples == used.queries.drift.samples == 300
        for source in ("probe", "feedback"):
            assert getattr(status, source).recall.queries == getattr(used, source).recall.queries > 0
        assert status.queries.shadow.recall == used.queries.shadow.recall
        assert status.queries.shadow.recall.evidence > 0
        assert (status.probe.recall.baseline, status.probe.ndcg_baseline) == (1.0, 1.0)
        assert status.feedback.pairs == used.feedback.pairs
        assert status.began["drift"] == used.began["drift"] == 1_100.0
        assert status.snapshot.restored
        assert not used.snapshot.restored


def test_recall_of_another_index_or_other_probes_is_not_restored(used, tmp_path):
    after = MonitorHarness(tmp_path, index="other", probes="others")
    after.watch.restore()
    with after.watch:
        status = after.status()
        assert (status.queries.shadow.recall.queries, status.probe.recall.queries) == (0, 0)
        assert status.feedback.recall.queries == 0
        assert status.feedback.pairs == used.feedback.pairs  # correct documents do not depend on the index


def test_recall_without_recent_queries_is_unknown(used, tmp_path):
    """Without queries a warning must not last forever, and `ok` must not survive a week without a server."""
    after = MonitorHarness(tmp_path)
    after.clock.now = 1_000.0 + DAY_SECONDS
    after.watch.restore()
    with after.watch:
        status = after.status()
        assert (used.queries.shadow.recall.state, status.queries.shadow.recall.state) == (
            SignalState.WARN,
            SignalState.UNKNOWN,
        )
        assert "no query compared in the last 3,600 s" in status.queries.shadow.recall.reason
        assert "no query compared in the last 86,400 s" in status.feedback.recall.reason
        after.search(missed=1)
        assert after.status().queries.shadow.recall.state is SignalState.WARN


def after(before, tmp_path, **settings):
    """Another server with the same folder, one hour later."""
    made = MonitorHarness(tmp_path, **settings)
    made.clock.now = before.clock.now + 3_000
    made.watch.restore()
    return made


@pytest.fixture
def calm(tmp_path):
    """A stopped server without any fault."""
    harness = MonitorHarness(tmp_path)
    with harness.watch:
        harness.run_canaries()
        harness.replay()
        harness.search()
        assert harness.status().diagnosis.cause is DiagnosisCause.NONE
    return harness


def test_an_index_that_was_built_worse_is_degraded_before_the_first_search(calm, tmp_path):
    made = after(calm, tmp_path, index="worse", baseline=RecallBaseline(0.542, 0.51))
    with made.watch:
        made.run_canaries()
        diagnosis = made.status().diagnosis
        assert (diagnosis.cause, diagnosis.changed) == (DiagnosisCause.INDEX_DEGRADED, BaselineChange.INDEX)
        recall = made.status().queries.shadow.recall
        assert (recall.baseline, recall.inherited, recall.queries) == (1.0, True, 0)
        assert "was 0.542 when this index was built, and 1.000 with the previous index" in recall.reason
        made.replay(wrong=9)
        made.search(20, missed=5)
        assert made.status().diagnosis.cause is DiagnosisCause.INDEX_DEGRADED
    again = after(made, tmp_path, index="worse", baseline=RecallBaseline(0.542, 0.51))
    with again.watch:
        again.run_canaries()
        assert again.status().queries.shadow.recall.baseline == 1.0, "it outlives restarts, too"
        assert again.status().diagnosis.cause is DiagnosisCause.INDEX_DEGRADED


def test_an_index_that_serves_worse_than_it_was_measured_is_degraded(calm, tmp_path):
    made = after(calm, tmp_path, index="other", baseline=RecallBaseline.exact(1.0))
    with made.watch:
        made.run_canaries()
        made.search(30, missed=4)
        assert made.status().diagnosis.cause is DiagnosisCause.INDEX_DEGRADED


def test_an_index_measured_low_that_serves_well_is_ok(calm, tmp_path):
    made = after(calm, tmp_path, index="other", baseline=RecallBaseline(0.542, 0.51))
    with made.watch:
        made.run_canaries()
        made.replay()
        made.search(150)
        assert made.status().diagnosis.cause is DiagnosisCause.NONE


def test_an_index_that_misses_the_probes_documents_is_degraded(calm, tmp_path):
    made = after(calm, tmp_path, index="other")
    with made.watch:
        made.run_canaries()
        made.search()
        made.replay(wrong=9)
        assert made.status().diagnosis.cause is DiagnosisCause.INDEX_DEGRADED
        made.watch.probes.missing = 9  # the documents that these probes need
        assert made.status().diagnosis.cause is DiagnosisCause.LABELS_STALE


def test_a_worse_model_is_diagnosed_and_a_rollback_finds_its_state(calm, tmp_path):
    """The probes are the same file, so their results are comparable."""
    made = after(calm, tmp_path, model="new", index="new")
    with made.watch:
        made.run_canaries()
        made.search()
        assert made.status().probe.recall.baseline == 1.0
        made.replay(wrong=9)
        diagnosis = made.status().diagnosis
        assert (diagnosis.cause, diagnosis.changed) == (DiagnosisCause.MODEL_WORSE, BaselineChange.MODEL)
    restarted = after(made, tmp_path, model="new", index="new")
    with restarted.watch:
        restarted.run_canaries()
        restarted.replay(wrong=9)
        assert restarted.status().diagnosis.cause is DiagnosisCause.MODEL_WORSE, "a restart changes nothing"
    back = after(restarted, tmp_path)
    with back.watch:
        back.run_canaries()
        status = back.status()
        assert status.snapshot.restored
        assert (status.queries.drift.samples, status.queries.shadow.recall.queries) == (300, 300)
        back.replay()
        assert back.status().diagnosis.changed is BaselineChange.NOTHING


def test_a_model_that_is_as_good_becomes_the_new_baseline(calm, tmp_path):
    made = after(calm, tmp_path, model="new", index="new")
    with made.watch:
        made.run_canaries()
        made.search()
        made.replay()
        assert made.status().diagnosis.cause is DiagnosisCause.NONE
        made.replay(wrong=9)
        assert made.status().diagnosis.cause is DiagnosisCause.LABELS_STALE


def test_other_probes_say_nothing_about_another_model(calm, tmp_path):
    made = after(calm, tmp_path, model="new", index="new", probes="others")
    assert made.watch.probes.recall.baseline is None


def test_a_reload_without_a_folder_keeps_what_the_server_knew(tmp_path):
    before = MonitorHarness()
    with before.watch:
        before.run_canaries()
        before.replay()
        before.search()
        worse = MonitorHarness(index="worse", baseline=RecallBaseline(0.542, 0.51))
        worse.watch.restore(before.watch)
        other = MonitorHarness(model="new", index="new")
        other.watch.restore(before.watch)
    with worse.watch:
        worse.run_canaries()
        assert worse.status().diagnosis.cause is DiagnosisCause.INDEX_DEGRADED
    with other.watch:
        other.run_canaries()
        other.replay(wrong=9)
        assert other.status().diagnosis.cause is DiagnosisCause.MODEL_WORSE


def test_the_diagnosis_does_not_flap_at_steady_traffic(harness):
    """Recorded: 400 queries at recall 0.972 with baseline 0.993, then 41 better ones, whose interval is still below.

    The evidence of the cusum falls below its limit, and nothing was mended.
    """
    found = []
    for number in range(12):
        harness.search(40, missed=1 if number < 8 else 0, seed=number + 2)
        found.append(harness.status().diagnosis.cause)
    first = found.index(DiagnosisCause.INDEX_DEGRADED)
    assert set(found[first:]) == {DiagnosisCause.INDEX_DEGRADED}
    recall = harness.status().queries.shadow.recall
    assert recall.upper < recall.baseline


def test_a_damaged_snapshot_is_logged_and_replaced(used, tmp_path, caplog):
    path = tmp_path / NAME
    path.write_bytes(path.read_bytes()[:-5])
    after = MonitorHarness(tmp_path)
    after.watch.restore()
    assert "monitoring starts without it" in caplog.text
    with after.watch:
        after.search()
        assert after.status().queries.drift.samples == 300
    assert path.stat().st_size > 10_000  # the next snapshot is complete


def test_a_missing_folder_is_counted_and_not_raised(tmp_path):
    folder = tmp_path / "gone"
    harness = MonitorHarness(folder)
    with harness.watch:
        harness.watch.save(harness.watch.state_to_save())
        status = harness.status()
        assert (status.failures.snapshot, status.snapshot.written) == (1, 0)
        folder.mkdir()
        harness.watch.save(harness.watch.state_to_save())
        assert harness.status().snapshot.written == 1
        assert harness.status().snapshot.bytes == (folder / NAME).stat().st_size
