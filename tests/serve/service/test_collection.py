"""What the monitor takes for the recall that an index should have."""

from types import SimpleNamespace

import pytest

from embedship.monitor.recall.rolling import Baseline
from embedship.serve.index.manifest import SAMPLED, Recall
from embedship.serve.service.collection import Shelf


@pytest.mark.parametrize(
    ("measured", "baseline"),
    [
        (None, None),
        (Recall(k=10, queries=500, source="queries.jsonl", ratio=0.98, low=0.97), Baseline(0.98, 0.97)),
        (Recall(k=10, queries=200, source=SAMPLED, ratio=1.0, low=0.98), Baseline(1.0, 0.9, provisional=True)),
        (Recall(k=10, queries=500, source="queries.jsonl", ratio=1.0), Baseline(1.0, 0.9, provisional=True)),
        (Recall(k=10, queries=2, source="queries.jsonl", ratio=0.5, low=0.0), Baseline(0.5, 0.01)),
        (Recall(k=10, queries=2, source="queries.jsonl", ratio=0.0, low=0.0), None),
        (Recall(k=5, queries=2, source="queries.jsonl", ratio=1.0, low=1.0), None),
    ],
)
def test_the_baseline_is_worth_what_the_measurement_is(measured: Recall | None, baseline: Baseline | None) -> None:
    """Documents as queries, or an index that keeps no interval, say only that it works."""
    shelf = object.__new__(Shelf)
    shelf.store = SimpleNamespace(manifest=SimpleNamespace(recall=measured))  # type: ignore[assignment]
    assert shelf.baseline == baseline
