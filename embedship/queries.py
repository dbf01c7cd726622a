"""Query log: texts of queries and, if known, their sessions, times and measured recalls."""

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

ALONE = -1  # session number of a query without a session: each such query counts as a session of one query
UNIX_SECONDS = (-62_135_596_800.0, 253_402_300_799.0)  # the years 1 to 9999, the range of Python's dates


class _QueryLine(msgspec.Struct, frozen=True):
    """A line of the log. Other fields are ignored."""

    text: str
    session: str | int | None = None
    timestamp: datetime | float | None = None  # ISO 8601, in UTC if it names no zone; or Unix seconds
    recall: float | None = None

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ValueError("`text` is empty")
        if self.recall is not None and not 0 <= self.recall <= 1:
            raise ValueError(f"`recall` is {self.recall:g}, but it must be between 0 and 1")
        if isinstance(self.timestamp, float) and not UNIX_SECONDS[0] <= self.timestamp <= UNIX_SECONDS[1]:
            raise ValueError(
                f"`timestamp` is {self.timestamp:,.0f}, which is not a Unix time in seconds: is it in milliseconds?"
            )


@dataclass(frozen=True, slots=True)
class QueryLog:
    """Queries: n texts; sessions (n,) int64, times (n,) float64 in Unix seconds, recalls (n,) float64.

    ALONE marks a query without a session, NaN a query without a recall. A column without any value is None. If the
    times are known, the queries are sorted by time.
    """

    texts: list[str]
    sessions: NDArray[np.int64] | None = None
    times: NDArray[np.float64] | None = None
    recalls: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def only(self, rows: NDArray[np.int64]) -> QueryLog:
        """Return these rows, in this order."""
        return QueryLog(
            [self.texts[row] for row in rows],
            None if self.sessions is None else self.sessions[rows],
            None if self.times is None else self.times[rows],
            None if self.recalls is None else self.recalls[rows],
        )


def read(path: Path) -> QueryLog:
    """Read JSON Lines: {"text"} and, if known, "session", "timestamp", "recall". Raises UsageError like jsonl.read."""
    lines = list(jsonl.read(path, _QueryLine))
    times = _times(lines, path)
    if times is not None:
        order = np.argsort(times, kind="stable")
        lines, times = [lines[i] for i in order], times[order]
    return QueryLog([line.text for line in lines], _sessions(lines), times, _recalls(lines))


def encode(encoder: Encoder, texts: Sequence[str], progress: Callable[[int], object] | None = None) -> Vectors:
    """Return (n, dim) float32 vectors of queries, with the prompt that the server uses for queries."""
    name = encoder.bundle.manifest.pipeline.query_prompt
    return encoder.encode(texts, prompt_name=name, progress=progress)


def prompt(encoder: Encoder) -> str:
    """Return the text that the server puts before every query."""
    return encoder.tokenizer.prompt(encoder.bundle.manifest.pipeline.query_prompt)


def _times(lines: list[_QueryLine], path: Path) -> NDArray[np.float64] | None:
    stamps = [line.timestamp for line in lines if line.timestamp is not None]
    if not stamps:
        return None
    if len(stamps) < len(lines):
        raise UsageError(
            f"{path}: {len(stamps)} of {len(lines)} lines have a `timestamp`: put it on every line or on none"
        )
    return np.array([_seconds(each) for each in stamps])


def _seconds(time: datetime | float) -> float:
    if isinstance(time, datetime):
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    return time


def _sessions(lines: list[_QueryLine]) -> NDArray[np.int64] | None:
    numbers: dict[str | int, int] = {}
    sessions = [ALONE if line.session is None else numbers.setdefault(line.session, len(numbers)) for line in lines]
    return np.array(sessions, dtype=np.int64) if numbers else None


def _recalls(lines: list[_QueryLine]) -> NDArray[np.float64] | None:
    recalls = np.array([np.nan if line.recall is None else line.recall for line in lines])
    return None if np.isnan(recalls).all() else recalls
