from __future__ import annotations

from embedship import stdlib_docs


def test_entries_are_many_distinct_and_stable() -> None:
    entries = stdlib_docs.entries()
    assert len(entries) > 1500
    assert len({e.summary for e in entries}) == len({e.body for e in entries}) == len(entries)
    assert entries == stdlib_docs.entries()
    assert "csv.Sniffer.sniff" in {e.id for e in entries} or any(e.id.startswith("csv") for e in entries)


def test_a_limit_takes_a_spread_and_not_the_head() -> None:
    few = stdlib_docs.entries(30)
    assert len(few) == 30
    assert len({e.id.split(".")[0] for e in few}) > 15
