# ruff: noqa: RUF009 - setting() makes a field, and fields are made in class bodies
"""Every setting of the server, said once: flag, environment variable and documentation are made from it.

The flag --x-y and the environment variable EMBEDSHIP_X_Y are the same setting. Nothing here loads numpy: `serve` sets
up its threads first.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from embedship import device
from embedship.errors import UsageError
from embedship.monitor.drift.false_alarms import FalseAlarms
from embedship.monitor.errors import InvalidSetting
from embedship.serve.browser_guard import BrowserGuard
from embedship.serve.search.address import Address
from embedship.serve.telemetry.logs import LogFormat

_IN_PROCESS = ("auto", "cpu")

# One permit in eight is for interactive work only: a bulk load must not lock out queries.
BULK_RESERVED_FRACTION = 8


class SettingRange(NamedTuple):
    low: float
    high: float

    def __str__(self) -> str:
        return f"{_written(self.low)} to {_written(self.high)}"


def _written(number: float) -> str:
    """As people write it: 1,048,576 and 0.0001, never 1.04858e+06."""
    return f"{int(number):,}" if float(number).is_integer() else f"{number:g}"


def setting(default: Any, help: str, low: float | None = None, high: float | None = None) -> Any:
    """A field of Settings: its help text, and the range that is allowed where it is a number."""
    allowed = None if low is None or high is None else SettingRange(low, high)
    return dataclasses.field(default=default, metadata={"help": help, "allowed": allowed})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Checked when made: a bad value raises UsageError naming key, value and allowed range."""

    bundle: Path = dataclasses.field(metadata={"help": "Folder written by `embedship export`.", "allowed": None})
    index: Path | Address | None = setting(
        None,
        "Folder written by `embedship index`, or milvus://HOST:PORT/COLLECTION that it filled; without it no /search.",
    )
    reranker: Path | None = setting(
        None,
        "Bundle of a cross-encoder, from `embedship export --task rerank`: /rerank, and searches that ask for it.",
    )
    writable: bool = setting(
        False,
        "Take PUT and DELETE at /documents, of who has a write key or an admin key; changes lie in INDEX.live, beside "
        "the index, which stays as it is.",
    )
    compact_share: float = setting(
        0.02,
        "Compact the index when so many changes have come since, as a share of its vectors, and 1,000 at least.",
        0.0001,
        1,
    )
    reference: Path | None = setting(
        None,
        "Drift reference, written by `embedship reference`; default: BUNDLE.reference.safetensors beside the bundle, "
        "else the one in it.",
    )
    candidate_bundle: Path | None = setting(
        None,
        "Bundle that may come next, asked a share of the searches beside the one that answers; default: the same.",
    )
    candidate_index: Path | Address | None = setting(
        None, "Index that may come next; its answers reach nobody, /monitor compares them."
    )
    candidate_rate: float = setting(0.05, "Share of searches that the candidate is asked, too.", 0, 1)
    candidate_share: float = setting(
        0.05, "Most time the candidate may take, as a share of one core; the rest is skipped.", 0, 1
    )
    variant: str | None = setting(None, "Variant to run; default: the one measured best on a machine like this one.")
    cache: Path | None = setting(
        None, "Folder that keeps what was measured on this machine; default: beside the bundle."
    )
    host: str = setting("127.0.0.1", "Address to listen on; 0.0.0.0 for all.")
    port: int = setting(8080, "Port to listen on; 0 for any free one.", 0, 65_535)
    metrics_port: int | None = setting(
        None,
        "Port of its own for /metrics, with /health and /ready; 0 for any free one. /metrics is then not on --port. "
        "Nothing here asks for a key: let only your monitoring reach it.",
        0,
        65_535,
    )
    metrics_host: str | None = setting(None, "Address that --metrics-port listens on; default: that of --host.")
    api_key_file: Path | None = setting(
        None,
        "API keys, one a line; requests must carry one (Authorization: Bearer KEY). Keys may also be in "
        "EMBEDSHIP_API_KEYS. Default: everybody may ask.",
    )
    admin_key_file: Path | None = setting(
        None,
        "Admin keys, one a line, for /admin/ routes; they may also be in EMBEDSHIP_ADMIN_KEYS. Default: those routes "
        "refuse everybody.",
    )
    write_key_file: Path | None = setting(
        None,
        "Write keys, one a line, for changes to /documents; they may also be in EMBEDSHIP_WRITE_KEYS. Default: only "
        "admin keys may write.",
    )
    allowed_hosts: str | None = setting(
        None,
        "Names that this server is known by, with commas between them: without API keys, requests of web pages of "
        "other sites are refused, and on loopback such as name another host than localhost or an address. With names, "
        "everywhere; * allows all. Default: none.",
    )
    streams: int | None = setting(None, "Engine threads; default: one a core of the cgroup quota.", 1, 1_024)
    devices: str = setting(
        "auto",
        "auto or cpu: engine streams in this process; or names of devices, each of which gets a worker process that is "
        "watched and restarted: cpu:0,cpu:1 or cuda:0,cuda:1 (tensorrt:0 and Intel's gpu:0 likewise).",
    )
    stall_seconds: float = setting(
        10.0,
        "A forward pass that runs longer hangs, unless the device's own pace allows it more: the worker process is "
        "killed and started again; in this process, /health fails.",
        0.1,
        3_600,
    )
    batch_tokens: int = setting(1_536, "Most padded tokens in a batch.", 16, 1_048_576)  # plan.BUDGET
    queue_texts: int = setting(4_096, "Texts that may wait; more are answered with 429.", 1, 1_000_000)
    max_texts: int = setting(2_048, "Most texts in a request.", 1, 100_000)  # what OpenAI's clients may send
    max_characters: int = setting(200_000, "Most characters in a text.", 1, 10_000_000)
    max_body_bytes: int = setting(16 * 1024 * 1024, "Most bytes in a request.", 1_024, 1_073_741_824)
    max_head_bytes: int = setting(
        32_768, "Most bytes in the head of a request; more are answered with 431.", 1_024, 1_048_576
    )
    max_head_fields: int = setting(100, "Most headers of a request; more are answered with 431.", 8, 10_000)
    connections: int = setting(
        1_024,
        "Most connections at once; on a further one only /health, /ready and /metrics are answered, all else with 503.",
        1,
        1_000_000,
    )
    accept_token_ids: bool = setting(
        False, "Take lists of token ids at /v1/embeddings: only where every client has this model's own tokenizer."
    )
    request_seconds: float = setting(
        60.0,
        "Longest a request may take, once its body has come, before it is answered with 504; a client may ask for less "
        "with X-Request-Timeout-Ms.",
        0.001,
        86_400,
    )
    head_seconds: float = setting(
        15.0, "Longest the head of a request may take to arrive before its connection is cut.", 0.1, 3_600
    )
    body_seconds: float = setting(
        30.0, "Longest the body of a request may take to arrive before it is answered with 408.", 0.1, 3_600
    )
    idle_seconds: float = setting(
        75.0,
        "An idle connection is closed after so long: more than load balancers keep theirs, for the side that closes "
        "first should be the client's.",
        0.1,
        86_400,
    )
    answer_seconds: float = setting(
        60.0, "Longest a client may take to read an answer before its connection is cut.", 0.1, 3_600
    )
    max_unread_bytes: int = setting(
        256 * 1024 * 1024,
        "Most bytes of answers that may wait for their clients to read; then the connection is cut that has not read "
        "for longest.",
        65_536,
        1_099_511_627_776,
    )
    max_hits: int = setting(1_000, "Most hits a search may ask for.", 1, 10_000)
    drain_seconds: float = setting(
        30.0,
        "After SIGTERM, keep answering until requests stop coming, at most so long; give the process 20 s more before "
        "it is killed (terminationGracePeriodSeconds).",
        0,
        3_600,
    )
    sample_rate: float = setting(1.0, "Share of queries tested for drift.", 0, 1)
    shadow_rate: float = setting(0.01, "Share of searches repeated exactly, for recall@10.", 0, 1)
    shadow_share: float = setting(
        0.02, "Most time the exact searches may take, as a share of one core; the rest is skipped.", 0, 1
    )
    drift_interval_seconds: float = setting(60.0, "Seconds between tests for drift.", 0.1, 86_400)
    false_alarms: str = setting(
        "1 per 30 days", 'False alarms of drift that are accepted: "1 per 30 days", "2 per week".'
    )
    canary_interval_seconds: float = setting(
        30.0, "Seconds between golden texts re-encoded on every device.", 0.1, 3_600
    )
    probes: Path | None = setting(
        None,
        'Labelled queries, JSON Lines {"text", "relevant": [ids]}, replayed for recall@10; default: probes.jsonl '
        "beside the index, if it is there.",
    )
    probe_interval_seconds: float = setting(600.0, "Seconds between replays of the probes.", 0.1, 86_400)
    probe_baseline: float | None = setting(
        None, "Recall@10 the probes should have; default: that of the first replay.", 0.01, 1
    )
    keep_answers: int = setting(
        10_000, "Answered queries that POST /feedback can still judge by their request id.", 0, 1_000_000
    )
    keep_queries: int = setting(
        0, "Show the texts of so many drifted or judged queries; 0 keeps no query text at all.", 0, 1_000
    )
    log_format: LogFormat = setting(LogFormat.TEXT, "Lines on stderr: text to read, or json, an object a line.")
    access_log: bool = setting(
        False, "Log a line for each request: route, status, texts, tokens, seconds by phase; never a text or a key."
    )
    state_dir: Path | None = setting(
        None, "Folder that keeps the monitor's memory over restarts; without it, it begins anew."
    )

    def __post_init__(self) -> None:
        for name, allowed in RANGES.items():
            value = getattr(self, name)
            if value is not None and not allowed.low <= value <= allowed.high:
                raise UsageError(f"{flag(name)} ({variable(name)}) is {value}; allowed is {allowed}")
        try:
            FalseAlarms.parse(self.false_alarms)
        except InvalidSetting as error:
            raise UsageError(f"{flag('false_alarms')} ({variable('false_alarms')}): {error}") from None
        if self.writable and self.index is None:
            raise UsageError(
                f"{flag('writable')} ({variable('writable')}) needs an index to write to: give --index INDEX"
            )
        try:
            BrowserGuard.parse(self.allowed_hosts)
        except UsageError as error:
            raise UsageError(f"{flag('allowed_hosts')} ({variable('allowed_hosts')}): {error}") from None
        try:
            self.workers  # noqa: B018 - read for its error
        except UsageError as error:
            raise UsageError(f"{flag('devices')} ({variable('devices')}): {error}") from None
        if self.candidate_bundle and not self.candidate_index:
            raise UsageError(f"{flag('candidate_bundle')} needs its own index: give {flag('candidate_index')}, too")
        if self.candidate_index and not self.index:
            raise UsageError(f"{flag('candidate_index')} is compared with the index that answers: give {flag('index')}")
        if self.max_texts > (most := self.queue_texts - self.queue_texts // BULK_RESERVED_FRACTION):
            raise UsageError(
                f"{flag('max_texts')} is {self.max_texts}, but with {flag('queue_texts')} {self.queue_texts} a request "
                f"of more than {most} texts could never enter: lower the first or raise the second"
            )

    @property
    def workers(self) -> tuple[device.DeviceAddress, ...]:
        """The devices that get a worker process; none: the streams run in this process."""
        return () if self.devices in _IN_PROCESS else device.several(self.devices)

    def lines(self) -> list[str]:
        """`name = value`, for the log at start. No setting is a secret: keys lie elsewhere."""
        return [f"{field.name} = {getattr(self, field.name)}" for field in fields(self)]


RANGES = MappingProxyType(
    {field.name: field.metadata["allowed"] for field in fields(Settings) if field.metadata["allowed"]}
)


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def variable(name: str) -> str:
    return "EMBEDSHIP_" + name.upper()
