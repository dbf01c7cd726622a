from __future__ import annotations

import pytest

from embedship.transfer.errors import TransferInterrupted
from embedship.transfer.retry import RetryPolicy


def test_waits_double_with_jitter_and_end() -> None:
    slept: list[float] = []
    patience = RetryPolicy(failures=20, first=1.0, longest=8.0, sleep=slept.append)
    for failed in range(1, 20):
        patience.wait(failed, TransferInterrupted("lost"))
    assert all(seconds <= min(8.0, 2.0**i) for i, seconds in enumerate(slept))
    assert len(set(slept)) == len(slept), "a thousand pods do not come back at once"
    assert max(slept[3:]) > 2.0
    with pytest.raises(TransferInterrupted, match="lost"):
        patience.wait(20, TransferInterrupted("lost"))


def test_a_server_s_wish_is_followed_within_reason() -> None:
    slept: list[float] = []
    patience = RetryPolicy(sleep=slept.append)
    patience.wait(1, TransferInterrupted("busy", retry_after=7.0))
    patience.wait(1, TransferInterrupted("busy", retry_after=86_400.0))
    assert slept == [7.0, 120.0]
