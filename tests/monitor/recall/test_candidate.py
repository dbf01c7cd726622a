from threading import Thread

import pytest

from embedship.monitor.recall.candidate import CandidateComparison
from embedship.monitor.recall.score import RecallScore

TEN = [f"d{n}" for n in range(10)]


def test_overlap_is_of_the_first_ten_documents():
    comparison = CandidateComparison("fp", "index")
    comparison.compared(TEN, [*TEN[5:], "x", "y"], 0.2, 0.1)
    comparison.compared(TEN, list(reversed(TEN)), None, 0.3)
    report = comparison.report()
    assert (report.queries, report.found, report.expected) == (2, 15, 20)
    assert report.overlap == 0.75
    assert 0 < report.lower < 0.75 < report.upper <= 1
    assert (report.serving.median, report.candidate.median) == (0.2, 0.1), "of searches that came alone"


def test_what_lies_behind_the_tenth_does_not_count():
    comparison = CandidateComparison("fp", "index")
    comparison.compared([*TEN, "x"], [*"abcdefghij", *TEN], None, 0.1)
    assert comparison.report().found == 0
    comparison.compared([], TEN, None, 0.1)
    assert comparison.report().queries == 1, "an answer without hits says nothing"


def test_it_forgets_searches_that_are_long_past():
    comparison = CandidateComparison("fp", "index")
    comparison.compared(TEN, [], 9.0, 9.0)
    for _ in range(500):
        comparison.compared(TEN, TEN, 0.1, 0.2)
    report = comparison.report()
    assert (report.overlap, report.queries, report.found) == (1.0, 501, 5000)
    assert (report.serving.p99, report.candidate.p99) == pytest.approx((0.1, 0.2))


def test_probes_and_what_was_not_asked():
    comparison = CandidateComparison("fp", "index")
    for score in (RecallScore(1, 1, 1.0), RecallScore(0, 2, 0.0)):
        comparison.probed(score)
    comparison.skipped(busy=True)
    comparison.skipped(busy=False)
    comparison.skipped(busy=False)
    comparison.failed()
    comparison.spent(0.5)
    report = comparison.report()
    assert (report.probes, report.probe_recall, report.probe_ndcg) == (2, 0.5, 0.5)
    assert (report.busy_skipped, report.allowance_skipped, report.failures, report.seconds) == (1, 2, 1, 0.5)


def test_nothing_yet_is_zero():
    report = CandidateComparison("fp", "index").report()
    assert (report.queries, report.overlap, report.probes, report.probe_recall) == (0, 0.0, 0, 0.0)
    assert (report.fingerprint, report.index) == ("fp", "index")


def test_several_threads():
    comparison = CandidateComparison("fp", "index")
    threads = [Thread(target=lambda: [comparison.compared(TEN, TEN, 0.1, 0.1) for _ in range(200)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert comparison.report().queries == 800
