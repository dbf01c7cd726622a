from __future__ import annotations

import threading
from contextlib import closing

import pytest

from embedship.serve.milvus import document_count
from embedship.serve.milvus.document_count import DocumentCount
from embedship.serve.search.backend import BackendUnavailable


def test_it_is_counted_beside_who_asks_and_told_the_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    counts, counted = iter([3, 5]), threading.Semaphore(0)

    def count() -> int:
        try:
            return next(counts)
        except StopIteration:
            raise BackendUnavailable("away") from None
        finally:
            counted.release()

    with closing(DocumentCount(count)) as held:
        counted.acquire()
        assert held.count == 3
        held.changed(2)
        assert held.count == 5, "what this process writes, it knows"
        assert not counted.acquire(blocking=False), "and it is fresh"
        held.changed(-1)
        monkeypatch.setattr(document_count, "FRESH_SECONDS", -1)
        assert held.count == 4, "who asks does not wait"
        assert counted.acquire(timeout=10)
        for _ in range(2):  # the second count fails, and the last one stands
            while held._asking:
                threading.Event().wait(0.01)
            assert held.count == 5
