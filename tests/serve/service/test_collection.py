"""What the monitor takes for the recall that an index should have."""

from types import SimpleNamespace

import pytest

from embedship.monitor.recall.rolling import RecallBaseline
from embedship.serve.index.manifest import SAMPLED, IndexRecall
from embedship.serve.service.collection import Collection


@pytest.mark.parametrize(
    ("measured", "baseline"),
    [
        (None, None),
        (IndexRecall(k=10, queries=500, source="queries.jsonl", ratio=0.98, low=0.97), RecallBaseline(0.98, 0.97)),
        (
            IndexRecall(k=10, queries=200, source=SAMPLED, ratio=1.0, low=0.98),
            RecallBaseline(1.0, 0.9, provisional=True),
        ),
        (IndexRecall(k=10, queries=500, source="queries.jsonl", ratio=1.0), RecallBaseline(1.0, 0.9, provisional=True)),
        (IndexRecall(k=10, queries=2, source="queries.jsonl", ratio=0.5, low=0.0), RecallBaseline(0.5, 0.01)),
        (IndexRecall(k=10, queries=2, source="queries.jsonl", ratio=0.0, low=0.0), None),
        (IndexRecall(k=5, queries=2, source="queries.jsonl", ratio=1.0, low=1.0), None),
    ],
)
def test_the_baseline_is_worth_what_the_measurement_is(
    measured: IndexRecall | None, baseline: RecallBaseline | None
) -> None:
    """Documents as queries, or an index that keeps no interval, say only that it works."""
    collection = object.__new__(Collection)
    collection.backend = SimpleNamespace(manifest=SimpleNamespace(recall=measured))  # type: ignore[assignment]
    assert collection.baseline == baseline
