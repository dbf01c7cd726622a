from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from embedship.charts import axis


def test_an_even_axis_has_round_ticks() -> None:
    found = axis.even("tokens/s", [4512, 22103], from_zero=True)
    assert [tick.text for tick in found.ticks] == ["0", "5,000", "10,000", "15,000", "20,000"]
    assert found.place(0, 100, 300) == 100
    assert found.place(22103, 100, 300) < 300


@example([5e-324], False)
@example([1e6, 999_999.9999999999], False)
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=6), st.booleans())
def test_every_value_and_tick_lies_on_an_even_axis(values: list[float], from_zero: bool) -> None:
    found = axis.even("x", values, from_zero)
    for value in [*values, *(tick.value for tick in found.ticks)]:
        assert -0.1 <= found.place(value, 0, 100) <= 100.1
    assert 1 <= len(found.ticks) <= 8
    assert len({tick.text for tick in found.ticks}) == len(found.ticks), "two ticks read alike"


def test_doublings() -> None:
    found = axis.doublings("bytes", [8, 3072])
    texts = [tick.text for tick in found.ticks]
    assert texts[0] == "8"
    assert "2,048" in texts
    assert len(texts) <= 8
    assert 0 < found.place(8, 0, 100) < found.place(3072, 0, 100) < 100
