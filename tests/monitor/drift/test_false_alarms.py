import msgspec
import pytest

from embedship.monitor.drift.false_alarms import DEFAULT, FalseAlarms
from embedship.monitor.errors import InvalidSetting


@pytest.mark.parametrize(
    ("text", "alarms", "days"),
    [
        ("1 per 30 days", 1, 30),
        ("2 per week", 2, 7),
        ("0.5 per day", 0.5, 1),
        (" 1 PER 12 hours ", 1, 0.5),
        ("3 per month", 3, 30),
    ],
)
def test_a_budget_is_read(text, alarms, days):
    budget = FalseAlarms.parse(text)
    assert (budget.alarms, budget.seconds) == (alarms, days * 86_400)
    assert budget.per_day == pytest.approx(alarms / days)
    assert FalseAlarms.parse(str(budget)) == budget


@pytest.mark.parametrize("text", ["", "1", "one per day", "0 per day", "1 per 0 days", "-1 per day", "1 per fortnight"])
def test_what_is_no_budget_is_refused(text):
    with pytest.raises(InvalidSetting, match="false alarms"):
        FalseAlarms.parse(text)


def test_the_share_of_one_evaluation():
    assert DEFAULT.within(60) == pytest.approx(1 / 43_200)
    assert msgspec.json.decode(msgspec.json.encode(DEFAULT), type=FalseAlarms) == DEFAULT
