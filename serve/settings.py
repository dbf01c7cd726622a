"""Every setting of the server. The flag --x-y and the environment variable EMBEDSHIP_X_Y are the same setting."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

from embedship.errors import UsageError
from embedship.monitor.budget import FalseAlarms
from embedship.monitor.errors import InvalidSetting
from embedship.plan import BUDGET
from embedship.serve.admission import RESERVE


class Range(NamedTuple):
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}"


RANGES = {
    "port": Range(0, 65_535),
    "streams": Range(1, 1_024),
    "batch_tokens": Range(16, 1_048_576),
    "queue_texts": Range(1, 1_000_000),
    "max_texts": Range(1, 100_000),
    "max_characters": Range(1, 10_000_000),
    "max_body_bytes": Range(1_024, 1_073_741_824),
    "max_hits": Range(1, 10_000),
    "drain_seconds": Range(0, 3_600),
    "sample_rate": Range(0, 1),
    "shadow_rate": Range(0, 1),
    "shadow_share": Range(0, 1),
    "drift_interval_seconds": Range(0.1, 86_400),
    "canary_interval_seconds": Range(0.1, 3_600),
    "probe_interval_seconds": Range(0.1, 86_400),
    "probe_baseline": Range(0.01, 1),
    "keep_answers": Range(0, 1_000_000),
    "keep_queries": Range(0, 1_000),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Checked when made: a bad value raises UsageError naming key, value and allowed range."""

    bundle: Path
    index: Path | None = None
    reference: Path | None = None  # None: the one beside the bundle, else the one in it
    variant: str | None = None  # None: the one chosen on a machine like this one
    cache: Path | None = None  # where such a choice is kept; None: beside the bundle
    host: str = "127.0.0.1"
    port: int = 8080  # 0: any free one
    api_key_file: Path | None = None  # None: no keys but those of EMBEDSHIP_API_KEYS
    streams: int | None = None  # None: one a core
    batch_tokens: int = BUDGET
    queue_texts: int = 4_096
    max_texts: int = 2_048  # what OpenAI's clients may send
    max_characters: int = 200_000  # of one text
    max_body_bytes: int = 16 * 1024 * 1024
    max_hits: int = 1_000
    drain_seconds: float = 30.0
    sample_rate: float = 1.0
    shadow_rate: float = 0.01
    shadow_share: float = 0.02  # of a core
    drift_interval_seconds: float = 60.0
    false_alarms: str = "1 per 30 days"
    canary_interval_seconds: float = 30.0
    probes: Path | None = None  # None: probes.jsonl beside the index, if it is there
    probe_interval_seconds: float = 600.0
    probe_baseline: float | None = None  # None: recall of the first replay
    keep_answers: int = 10_000
    keep_queries: int = 0
    state_dir: Path | None = None

    def __post_init__(self) -> None:
        for name, allowed in RANGES.items():
            value = getattr(self, name)
            if value is not None and not allowed.low <= value <= allowed.high:
                raise UsageError(f"{flag(name)} ({variable(name)}) is {value}; allowed is {allowed}")
        try:
            FalseAlarms.parse(self.false_alarms)
        except InvalidSetting as error:
            raise UsageError(f"{flag('false_alarms')} ({variable('false_alarms')}): {error}") from None
        if self.max_texts > (most := self.queue_texts - self.queue_texts // RESERVE):
            raise UsageError(
                f"{flag('max_texts')} is {self.max_texts}, but with {flag('queue_texts')} {self.queue_texts} a request "
                f"of more than {most} texts could never enter: lower the first or raise the second"
            )

    def lines(self) -> list[str]:
        """`name = value`, for the log at start. No setting is a secret: keys lie elsewhere."""
        return [f"{field.name} = {getattr(self, field.name)}" for field in fields(self)]


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def variable(name: str) -> str:
    return "EMBEDSHIP_" + name.upper()
