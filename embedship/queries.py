"""A log of queries: texts, and where known their sessions, their times, and the recall each one had."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from embedship.codes import Vectors
from embedship.encoder import Encoder
from embedship.errors import UsageError
from embedship.files import jsonl

ALONE = -1  # a query without a session is one by itself
UNIX_SECONDS = (-62_135_596_800.0, 253_402_300_799.0)  # the years 1 to 9999, which is what a date can be


class _QueryLine(msgspec.Struct, frozen=True):
    """Logs have fields of their own beside these."""

    text: str
    session: str | int | None = None
    timestamp: datetime | float | None = None  # ISO 8601, UTC where it names no zone; or Unix seconds
    recall: float | None = None

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ValueError("`text` is empty")
        if self.recall is not None and not 0 <= self.recall <= 1:
            raise ValueError(f"`recall` is {self.recall:g}, it lies between 0 and 1")
        if isinstance(self.timestamp, float) and not UNIX_SECONDS[0] <= self.timestamp <= UNIX_SECONDS[1]:
            raise ValueError(f"`timestamp` is {self.timestamp:,.0f}, no Unix time in seconds: are these milliseconds?")


@dataclass(frozen=True, slots=True)
class QueryLog:
    """n texts; sessions (n,) int64, ALONE for none; times (n,) float64 Unix seconds; recalls (n,), NaN for not judged.

    A column that no line has is None. With times, queries are in their order.
    """

    texts: list[str]
    sessions: NDArray[np.int64] | None = None
    times: NDArray[np.float64] | None = None
    recalls: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def only(self, rows: NDArray[np.int64]) -> QueryLog:
        """These rows, in this order."""
        return QueryLog(
            [self.texts[row] for row in rows],
            None if self.sessions is None else self.sessions[rows],
            None if self.times is None else self.times[rows],
            None if self.recalls is None else self.recalls[rows],
        )


def read(path: Path) -> QueryLog:
    """Read JSON Lines, {"text"} and if known "session", "timestamp", "recall". Raises UsageError as jsonl.read does."""
    lines = list(jsonl.read(path, _QueryLine))
    times = _times(lines, path)
    if times is not None:
        order = np.argsort(times, kind="stable")
        lines, times = [lines[i] for i in order], times[order]
    return QueryLog([line.text for line in lines], _sessions(lines), times, _recalls(lines))


def encode(encoder: Encoder, texts: Sequence[str], progress: Callable[[int], object] | None = None) -> Vectors:
    """Return (n, dim) float32, with the prompt that queries are given in service."""
    name = encoder.bundle.manifest.pipeline.query_prompt
    return encoder.encode(texts, prompt_name=name, progress=progress)


def prompt(encoder: Encoder) -> str:
    """What stands before every query."""
    return encoder.tokenizer.prompt(encoder.bundle.manifest.pipeline.query_prompt)


def _times(lines: list[_QueryLine], path: Path) -> NDArray[np.float64] | None:
    found = [line.timestamp for line in lines if line.timestamp is not None]
    if not found:
        return None
    if len(found) < len(lines):
        raise UsageError(
            f"{path}: {len(found)} of {len(lines)} lines have a `timestamp`: give it on every line or on none"
        )
    return np.array([_seconds(each) for each in found])


def _seconds(at: datetime | float) -> float:
    if isinstance(at, datetime):
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    return at


def _sessions(lines: list[_QueryLine]) -> NDArray[np.int64] | None:
    names: dict[str | int, int] = {}
    found = [ALONE if line.session is None else names.setdefault(line.session, len(names)) for line in lines]
    return np.array(found, dtype=np.int64) if names else None


def _recalls(lines: list[_QueryLine]) -> NDArray[np.float64] | None:
    found = np.array([np.nan if line.recall is None else line.recall for line in lines])
    return None if np.isnan(found).all() else found
