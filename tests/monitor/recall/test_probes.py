import msgspec
import pytest

from embedship.monitor.recall.probes import STALE, WORST, LabelledProbe, ProbeRecall
from embedship.monitor.recall.score import RecallScore
from embedship.monitor.state import SignalState

PROBES = [LabelledProbe(f"question {i}", (f"d{i}",), id=f"q{i}" if i % 2 else None) for i in range(50)]
RIGHT, WRONG = RecallScore(1, 1, 1.0), RecallScore(0, 1, 0.0)


class Clock:
    now = 1_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def replay(probes, wrong=0):
    """The first `wrong` of the questions are not answered."""
    probes.replayed({number: WRONG if number < wrong else RIGHT for number in probes.order()})


def test_the_first_replay_is_the_baseline(clock):
    probes = ProbeRecall(PROBES, clock=clock)
    assert probes.report().recall.state is SignalState.UNKNOWN
    replay(probes, wrong=10)
    report = probes.report()
    assert (report.recall.state, report.recall.rolling, report.recall.baseline) == (SignalState.OK, 0.8, 0.8)
    assert (report.ndcg, report.ndcg_baseline, report.replays) == (0.8, 0.8, 1)


def test_the_same_answers_for_a_year_never_warn(clock):
    probes = ProbeRecall(PROBES, clock=clock)
    for _ in range(1_000):
        replay(probes, wrong=10)
    assert probes.report().recall.state is SignalState.OK


def test_a_collapse_warns_with_the_first_replay_that_shows_it_and_a_small_fall_soon(clock):
    probes = ProbeRecall(PROBES, clock=clock)
    replay(probes, wrong=10)
    replay(probes, wrong=40)
    assert probes.report().recall.state is SignalState.WARN
    probes = ProbeRecall(PROBES, clock=clock)
    replay(probes, wrong=2)
    needed = 0
    while probes.report().recall.state is not SignalState.WARN:
        replay(probes, wrong=5)  # recall 0.96 -> 0.90, above the users' 0.9 x baseline
        needed += 1
    assert needed <= 8


def test_a_measured_baseline_is_taken(clock):
    probes = ProbeRecall(PROBES, baseline=0.9, clock=clock)
    replay(probes, wrong=40)
    report = probes.report()
    assert (report.recall.baseline, report.recall.state) == (0.9, SignalState.WARN)


def test_probes_that_never_found_anything_have_no_baseline(clock):
    probes = ProbeRecall(PROBES, clock=clock)
    replay(probes, wrong=50)
    assert probes.report().recall.state is SignalState.UNKNOWN
    after = ProbeRecall(PROBES, clock=clock)
    after.remember(probes.recall.memory(), probes.ndcg_baseline)
    assert after.report().recall.state is SignalState.UNKNOWN


def test_an_index_that_was_filled_after_the_first_replays_has_a_baseline(clock):
    probes = ProbeRecall(PROBES, clock=clock)
    for wrong in (50, 50, 5):
        replay(probes, wrong=wrong)
    assert (probes.report().recall.baseline, probes.report().recall.state) == (0.9, SignalState.OK)
    replay(probes, wrong=40)
    assert probes.report().recall.state is SignalState.WARN


def test_replays_that_stop_are_unknown_again(clock):
    probes = ProbeRecall(PROBES, interval_seconds=600, clock=clock)
    replay(probes)
    probes.given_up()
    clock.now += STALE * 600 + 1
    report = probes.report()
    assert (report.recall.state, report.failures, report.replays) == (SignalState.UNKNOWN, 1, 1)
    assert "no whole replay in the last 1800 s" in report.recall.reason


def test_the_worst_are_named_without_their_texts(clock):
    probes = ProbeRecall(PROBES, clock=clock)
    replay(probes, wrong=20)
    worst = probes.report().worst
    assert len(worst) == WORST
    assert [each.probe for each in worst] == list(range(WORST))
    assert worst[1].id == "q1"
    assert "question" not in msgspec.json.encode(worst).decode()


def test_every_replay_asks_all_in_another_order():
    probes = ProbeRecall(PROBES)
    first, second = probes.order(), probes.order()
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second


def test_what_is_remembered_is_the_baseline_of_the_first_server(clock):
    before = ProbeRecall(PROBES, clock=clock)
    replay(before, wrong=5)
    after = ProbeRecall(PROBES, clock=clock)
    after.remember(before.recall.memory(), before.ndcg_baseline)
    replay(after, wrong=40)
    report = after.report()
    assert (report.recall.baseline, report.ndcg_baseline, report.recall.state) == (0.9, 0.9, SignalState.WARN)
    assert report.recall.queries == 100


@pytest.mark.parametrize(
    "line", [b'{"text": " ", "relevant": ["a"]}', b'{"text": "a", "relevant": []}', b'{"text": "a", "relevance": []}']
)
def test_a_probe_that_measures_nothing_is_refused(line):
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(line, type=LabelledProbe)
