"""Goals of the search benchmark, and the distance from each."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np

Point = dict[str, Any]


def judge_goals(
    curves: Sequence[Point],
    singles: dict[str, list[float]],
    rescoring: dict[str, float],
    filtered: dict[str, dict[str, float]],
) -> list[Point]:
    flat = _rate(next(p for p in curves if p["name"] == "faiss-flat"))
    hnswlib = [p for p in curves if p["name"] == "hnswlib"]
    alone = median(t / o for t, o in zip(singles["faiss-flat"], singles["embedship flat"], strict=True))
    exact = next(p for p in curves if p["name"] == "embedship flat")
    return [
        _fast(curves, hnswlib, 0.97, 1.5),
        _fast(curves, hnswlib, 0.99, 1.3),
        _small(curves, flat, hnswlib),
        _goal("exact tier: the rows of brute force", exact["recall"], 1.0, "recall@10"),
        _goal("exact tier: a batch, against plain faiss Flat", _rate(exact) / flat, 1.0, "times as fast"),
        _goal("exact tier: single queries, against plain faiss Flat", alone, 1.0, "times as fast"),
        _goal("rescoring against semantic_search_faiss", rescoring["theirs"] / rescoring["ours"], 50, "times as fast"),
        _recalls(curves),
        _filters(filtered),
    ]


def _fast(curves: Sequence[Point], hnswlib: Sequence[Point], recall: float, times: float) -> Point:
    name = f"fast tier: recall >= {recall} at <= 520 bytes, against hnswlib at equal recall"
    ours = [p for p in curves if p["ours"] and p["recall"] >= recall and p["hot_bytes"] <= 520]
    if not ours:
        return _nothing(name)
    best = max(ours, key=_rate)
    rival = _at(hnswlib, best["recall"])
    if rival is None:
        return {"goal": name, "met": False, "found": f"undecided: hnswlib's curve ends below {_describe_point(best)}"}
    return _goal(name, _rate(best) / rival, times, f"times as fast: {_describe_point(best)}")


def _small(curves: Sequence[Point], flat: float, hnswlib: Sequence[Point]) -> Point:
    name = "small tier: recall >= 0.985 at <= 64 bytes, against plain faiss Flat"
    ours = [p for p in curves if p["ours"] and p["recall"] >= 0.985 and p["hot_bytes"] <= 64]
    if not ours:
        return _nothing(name)
    best = max(ours, key=_rate)
    built = hnswlib[0]["build_seconds"] / max(best["build_seconds"], 0.01)
    goal = _goal(
        name, _rate(best) / flat, 3, f"times as fast: {_describe_point(best)}; built {built:.0f} times as fast"
    )
    return goal | {"met": goal["met"] and built >= 20}


def _recalls(curves: Sequence[Point]) -> Point:
    """Return the goal that our recall is at least the peer's, both with a rescore multiplier of 20."""
    theirs = next(p for p in curves if p["name"] == "semantic-search-faiss" and p["effort"] == "20")
    ours = next(
        p for p in curves if p["name"] == "embedship binary" and "oversample=20" in p["effort"].replace(" ", "=")
    )
    return _goal("recall of rescored binary, against semantic_search_faiss", ours["recall"], theirs["recall"], "recall")


def _filters(filtered: dict[str, dict[str, float]]) -> Point:
    name, share, recall = min(
        ((name, share, recall) for name, found in filtered.items() for share, recall in found.items()),
        key=lambda each: each[2],
    )
    return _goal("recall under filters, 50% to 0.1%, every kind", recall, 0.99, f"of {name} at a share of {share}")


def _at(curve: Sequence[Point], recall: float) -> float | None:
    """Return queries per second at this recall, interpolated between two points; None if the curve ends below it."""
    ordered = sorted(curve, key=lambda p: float(p["recall"]))
    if recall > ordered[-1]["recall"]:
        return None
    recalls, rates = [p["recall"] for p in ordered], [np.log(_rate(p)) for p in ordered]
    return float(np.exp(np.interp(recall, recalls, rates)))


def _rate(point: Point) -> float:
    return float(point["queries_per_second"]["median"])


def _describe_point(point: Point) -> str:
    return f"{point['name']}, {point['effort']}, recall {point['recall']:.4f}, {point['hot_bytes']} bytes"


def _goal(name: str, found: float, wanted: float, unit: str) -> Point:
    by = "" if found >= wanted else f"; missed by {(wanted - found) / wanted:.1%}"
    return {"goal": name, "met": found >= wanted, "found": f"{found:.4g} (wanted {wanted:g}) {unit}{by}"}


def _nothing(name: str) -> Point:
    return {"goal": name, "met": False, "found": "no embedship index reaches this recall within these bytes"}
