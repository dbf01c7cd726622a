import numpy as np
import pytest

from embedship.monitor.recall.feedback import AnswerCache, FeedbackRecall, JudgedQuery


def rows(*lists):
    return np.array(lists, dtype=np.int64)


def test_every_result_of_a_request_can_be_judged_once():
    answers = AnswerCache(10)
    answers.keep("a", rows([1, 2], [3, 4]), ["one", "two"])
    assert answers.take("a", 1) == ([3, 4], "two")
    assert answers.take("a", 1) is None
    assert answers.take("a", 0) == ([1, 2], "one")


def test_what_is_not_kept_is_not_known():
    answers = AnswerCache(10)
    answers.keep("a", rows([1]))
    for place in (-1, 1):
        assert answers.take("a", place) is None
    assert answers.take("nobody", 0) is None


def test_an_id_of_two_different_answers_names_neither():
    answers = AnswerCache(10)
    answers.keep("a", rows([1], [2]))
    answers.keep("a", rows([1], [3]))
    assert [answers.take("a", place) for place in (0, 1)] == [None, None]
    assert answers.queries == 2


def test_a_request_sent_again_and_answered_alike_is_judged_once():
    answers = AnswerCache(10)
    for _ in range(2):
        answers.keep("a", rows([1], [2]))
    assert answers.take("a", 0).rows == [1]
    answers.keep("a", rows([1], [2]))
    assert answers.take("a", 0) is None
    assert (answers.take("a", 1).rows, answers.queries) == ([2], 2)


def test_the_oldest_leave_by_queries_and_not_by_requests():
    answers = AnswerCache(10)
    answers.keep("first", rows([1]))
    answers.keep("second", rows(*[[2]] * 9))
    assert answers.queries == 10
    answers.keep("third", rows([3]))
    assert answers.take("first", 0) is None
    assert answers.take("second", 0) is not None
    assert answers.take("third", 0) is not None
    assert answers.queries == 10
    answers.keep("too long", rows(*[[4]] * 11))
    assert (answers.take("too long", 0), answers.queries) == (None, 10)


def test_a_caller_may_reuse_its_array():
    answers, mine = AnswerCache(10), rows([1, 2])
    answers.keep("a", mine)
    mine[:] = 0
    assert answers.take("a", 0).rows == [1, 2]


def test_judgements_count_what_was_among_the_first_ten():
    feedback = FeedbackRecall()
    assert feedback.judge(list(range(12)), {"a": 0, "b": 11}, None)[:2] == (1, 2)
    assert feedback.judge([5], {"c": 5}, None)[:2] == (1, 1)
    recall = feedback.report().recall
    assert (recall.queries, recall.found, recall.expected) == (2, 2, 3)
    assert recall.rolling == pytest.approx(0.75)


def test_texts_are_kept_only_on_demand_and_only_the_last():
    silent, keeping = FeedbackRecall(), FeedbackRecall(pairs=2)
    assert (silent.keeps_texts, keeping.keeps_texts) == (False, True)
    for feedback in (silent, keeping):
        for text in ("one", "two", "three"):
            feedback.judge([1], {"a": 1}, text)
    assert silent.report().pairs == ()
    assert keeping.report().pairs == (JudgedQuery("two", ("a",), 1.0), JudgedQuery("three", ("a",), 1.0))


def test_a_long_text_is_kept_in_part():
    feedback = FeedbackRecall(pairs=1)
    feedback.answers.keep("a", rows([1]), ["x" * 5_000])
    assert feedback.answers.take("a", 0).text == "x" * 1_000
    feedback.judge([1], {"a": 1}, "y" * 5_000)
    assert feedback.report().pairs[0].query == "y" * 1_000
