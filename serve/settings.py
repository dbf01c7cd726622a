# ruff: noqa: RUF009 - setting() returns a dataclass field, so it must be called in the class body
"""Settings of the server: flags, environment variables and documentation are generated from these definitions.

The flag --x-y and the environment variable EMBEDSHIP_X_Y are the same setting. This module must not import numpy,
because `serve` first sets the number of BLAS threads.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType

from embedship import device
from embedship.errors import UsageError
from embedship.files.sealed import require_digest
from embedship.monitor.drift.false_alarms import FalseAlarms
from embedship.monitor.errors import InvalidSetting
from embedship.serve.browser_guard import BrowserGuard
from embedship.serve.search.address import Address
from embedship.serve.setting_fields import Panel, setting
from embedship.serve.telemetry.logs import LogFormat

_IN_PROCESS = ("auto", "cpu")

# One permit in eight is reserved for interactive requests, so that bulk requests cannot block queries.
BULK_RESERVED_FRACTION = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one server. An invalid value raises UsageError with its key, the value and the allowed range."""

    bundle: Path = field(
        metadata={"help": "Bundle folder, written by `embedship export`.", "allowed": None, "panel": Panel.MODEL}
    )
    index: Path | Address | None = setting(
        None,
        Panel.MODEL,
        "Index folder written by `embedship index`, or milvus://HOST:PORT/COLLECTION. Without an index, /search is "
        "disabled.",
    )
    reranker: Path | None = setting(
        None,
        Panel.MODEL,
        "Cross-encoder bundle, written by `embedship export --task rerank`. Enables /rerank and re-ranking in /search.",
    )
    writable: bool = setting(
        False,
        Panel.DOCUMENTS,
        "Enable PUT and DELETE on /documents (requires a write or admin key). Changes are stored in INDEX.live; the "
        "index folder is not modified.",
    )
    compact_share: float = setting(
        0.02,
        Panel.DOCUMENTS,
        "Compact the index when the changes since the last compaction exceed this share of its vectors (and at least "
        "1,000 changes).",
        0.0001,
        1,
    )
    reference: Path | None = setting(
        None,
        Panel.MONITOR,
        "Drift reference, written by `embedship reference`. Default: the file BUNDLE.reference.safetensors next to the "
        "bundle, or the reference inside the bundle.",
    )
    candidate_bundle: Path | None = setting(
        None,
        Panel.CANDIDATE,
        "Candidate bundle that receives a sample of live searches in the background. Default: the serving bundle.",
    )
    candidate_index: Path | Address | None = setting(
        None,
        Panel.CANDIDATE,
        "Candidate index. /monitor compares its results with the served ones; clients never see them.",
    )
    candidate_rate: float = setting(
        0.05, Panel.CANDIDATE, "Share of searches that are repeated on the candidate.", 0, 1
    )
    candidate_share: float = setting(
        0.05,
        Panel.CANDIDATE,
        "CPU limit of the candidate, as a share of one core. Searches above it are skipped.",
        0,
        1,
    )
    variant: str | None = setting(
        None, Panel.MODEL, "Variant to run. Default: the variant that measured best on this type of machine."
    )
    cache: Path | None = setting(
        None, Panel.MODEL, "Folder for measurements made on this machine. Default: next to the bundle."
    )
    host: str = setting("127.0.0.1", Panel.NETWORK, "Address to listen on. Use 0.0.0.0 for all interfaces.")
    port: int = setting(8080, Panel.NETWORK, "Port to listen on. 0 selects any free port.", 0, 65_535)
    metrics_port: int | None = setting(
        None,
        Panel.NETWORK,
        "Separate port for /metrics, /health and /ready; 0 selects any free port. /metrics is then not served on "
        "--port. This port requires no key: allow only your monitoring to reach it.",
        0,
        65_535,
    )
    metrics_host: str | None = setting(None, Panel.NETWORK, "Address for --metrics-port. Default: the value of --host.")
    api_key_file: Path | None = setting(
        None,
        Panel.ACCESS,
        "File with API keys, one per line. Requests must send one of them (Authorization: Bearer KEY). Keys can also "
        "be set in EMBEDSHIP_API_KEYS. Default: no key is required.",
    )
    admin_key_file: Path | None = setting(
        None,
        Panel.ACCESS,
        "File with admin keys, one per line, for the /admin/ routes. Keys can also be set in EMBEDSHIP_ADMIN_KEYS. "
        "Default: the /admin/ routes reject every request.",
    )
    write_key_file: Path | None = setting(
        None,
        Panel.ACCESS,
        "File with write keys, one per line, for changes to /documents. Keys can also be set in EMBEDSHIP_WRITE_KEYS. "
        "Default: only admin keys can write.",
    )
    allowed_hosts: str | None = setting(
        None,
        Panel.ACCESS,
        "Comma-separated host names of this server. Used only without API keys: requests from web pages of other sites "
        "are rejected. On loopback, the Host header must also be localhost, an IP address or one of these names; with "
        "names given, this applies to every address. * accepts all. Default: no names.",
    )
    key: Path | None = setting(
        None,
        Panel.ACCESS,
        "Public key, PEM: serve only bundles and indexes that were signed with its private half (`embedship sign`, "
        "`embedship index sign`). Checked at the start and at every reload. Requires the extra [sign]. Default: "
        "signatures are not checked.",
    )
    digests: str | None = setting(
        None,
        Panel.ACCESS,
        "Comma-separated digests, sha256:...: serve only bundles whose bundle.json and indexes whose index.json have "
        "one of them. Checked at the start and at every reload. Default: any digest.",
    )
    streams: int | None = setting(
        None, Panel.RUNTIME, "Number of engine threads. Default: one per core of the cgroup quota.", 1, 1_024
    )
    devices: str = setting(
        "auto",
        Panel.RUNTIME,
        "auto or cpu: run the model inside this process. A list such as cpu:0,cpu:1 or cuda:0,cuda:1 (also tensorrt:0, "
        "and gpu:0 for Intel) starts one worker process per device, which is monitored and restarted if it fails.",
    )
    stall_seconds: float = setting(
        10.0,
        Panel.RUNTIME,
        "A forward pass that runs longer counts as hung, unless the device is known to be slower. A hung worker "
        "process is killed and restarted; without worker processes, /health reports a failure.",
        0.1,
        3_600,
    )
    batch_tokens: int = setting(  # batches.BUDGET
        1_536, Panel.RUNTIME, "Maximum number of tokens in a batch, padding included.", 16, 1_048_576
    )
    queue_texts: int = setting(
        4_096, Panel.LIMITS, "Maximum number of queued texts. Above it, requests get 429.", 1, 1_000_000
    )
    max_texts: int = setting(  # the number that OpenAI's clients may send
        2_048, Panel.LIMITS, "Maximum number of texts per request.", 1, 100_000
    )
    max_characters: int = setting(200_000, Panel.LIMITS, "Maximum number of characters per text.", 1, 10_000_000)
    max_body_bytes: int = setting(
        16 * 1024 * 1024, Panel.LIMITS, "Maximum size of a request body, in bytes.", 1_024, 1_073_741_824
    )
    max_head_bytes: int = setting(
        32_768,
        Panel.LIMITS,
        "Maximum size of the request line and headers, in bytes. Above it, requests get 431.",
        1_024,
        1_048_576,
    )
    max_head_fields: int = setting(
        100, Panel.LIMITS, "Maximum number of headers per request. Above it, requests get 431.", 8, 10_000
    )
    connections: int = setting(
        1_024,
        Panel.LIMITS,
        "Maximum number of open connections. Above it, only /health, /ready and /metrics are answered; other requests "
        "get 503.",
        1,
        1_000_000,
    )
    accept_token_ids: bool = setting(
        False,
        Panel.ACCESS,
        "Accept lists of token ids on /v1/embeddings. Use it only if every client uses this model's own tokenizer.",
    )
    request_seconds: float = setting(
        60.0,
        Panel.TIMEOUTS,
        "Request timeout, measured after the body has been received. Late requests get 504. Clients can set a shorter "
        "timeout with the header X-Request-Timeout-Ms.",
        0.001,
        86_400,
    )
    head_seconds: float = setting(
        15.0, Panel.TIMEOUTS, "Timeout for receiving the request headers. The connection is then closed.", 0.1, 3_600
    )
    body_seconds: float = setting(
        30.0, Panel.TIMEOUTS, "Timeout for receiving the request body. Late requests get 408.", 0.1, 3_600
    )
    idle_seconds: float = setting(
        75.0,
        Panel.TIMEOUTS,
        "Idle timeout of a connection. Keep it longer than your load balancer's, so that the load balancer closes "
        "first.",
        0.1,
        86_400,
    )
    answer_seconds: float = setting(
        60.0, Panel.TIMEOUTS, "Timeout for a client to read the response. The connection is then closed.", 0.1, 3_600
    )
    max_unread_bytes: int = setting(
        256 * 1024 * 1024,
        Panel.LIMITS,
        "Limit on buffered response bytes. Above it, the connection that has been stalled longest is closed.",
        65_536,
        1_099_511_627_776,
    )
    max_hits: int = setting(1_000, Panel.LIMITS, "Maximum number of hits per search.", 1, 10_000)
    drain_seconds: float = setting(
        30.0,
        Panel.TIMEOUTS,
        "After SIGTERM, keep serving until no requests arrive, but at most for this time. Give the process 20 s more "
        "before it is killed (terminationGracePeriodSeconds).",
        0,
        3_600,
    )
    sample_rate: float = setting(1.0, Panel.MONITOR, "Share of queries that are tested for drift.", 0, 1)
    shadow_rate: float = setting(
        0.01, Panel.MONITOR, "Share of searches that are repeated as exact searches, to measure recall@10.", 0, 1
    )
    shadow_share: float = setting(
        0.02,
        Panel.MONITOR,
        "CPU limit of the exact searches, as a share of one core. Searches above it are skipped.",
        0,
        1,
    )
    drift_interval_seconds: float = setting(60.0, Panel.MONITOR, "Seconds between drift tests.", 0.1, 86_400)
    false_alarms: str = setting(
        "1 per 30 days",
        Panel.MONITOR,
        'Accepted rate of false drift alarms, for example "1 per 30 days" or "2 per week".',
    )
    canary_interval_seconds: float = setting(
        30.0, Panel.MONITOR, "Seconds between canary checks, which re-encode golden texts on every device.", 0.1, 3_600
    )
    probes: Path | None = setting(
        None,
        Panel.MONITOR,
        'File with labelled queries, as JSON Lines {"text", "relevant": [ids]}. They are searched periodically to '
        "measure recall@10. Default: probes.jsonl next to the index, if that file exists.",
    )
    probe_interval_seconds: float = setting(
        600.0, Panel.MONITOR, "Seconds between searches for the labelled queries.", 0.1, 86_400
    )
    probe_baseline: float | None = setting(
        None,
        Panel.MONITOR,
        "Expected recall@10 of the labelled queries. Default: the value of the first measurement.",
        0.01,
        1,
    )
    keep_answers: int = setting(
        10_000, Panel.MONITOR, "Number of recent searches that POST /feedback can refer to by request id.", 0, 1_000_000
    )
    keep_queries: int = setting(
        0,
        Panel.MONITOR,
        "Number of texts of drifted or judged queries to keep and show in /monitor. With 0, no query text is stored.",
        0,
        1_000,
    )
    log_format: LogFormat = setting(
        LogFormat.TEXT, Panel.LOGS, "Log format on stderr: text, or json with one object per line."
    )
    access_log: bool = setting(
        False,
        Panel.LOGS,
        "Log one line per request: route, status, texts, tokens and seconds per phase. Never texts or keys.",
    )
    state_dir: Path | None = setting(
        None, Panel.MONITOR, "Folder where the monitor saves its state. Without it, a restart clears the monitor."
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
            raise UsageError(f"{flag('writable')} ({variable('writable')}) needs an index: give --index INDEX")
        self._require_sealed_index()
        try:
            BrowserGuard.parse(self.allowed_hosts)
        except UsageError as error:
            raise UsageError(f"{flag('allowed_hosts')} ({variable('allowed_hosts')}): {error}") from None
        try:
            self.workers  # noqa: B018 - raises UsageError if the devices are not valid
        except UsageError as error:
            raise UsageError(f"{flag('devices')} ({variable('devices')}): {error}") from None
        if self.candidate_bundle and not self.candidate_index:
            raise UsageError(
                f"{flag('candidate_bundle')} needs an index of its own: also give {flag('candidate_index')} INDEX"
            )
        if self.candidate_index and not self.index:
            raise UsageError(
                f"{flag('candidate_index')} needs a serving index to compare with: also give {flag('index')} INDEX"
            )
        if self.max_texts > (most := self.queue_texts - self.queue_texts // BULK_RESERVED_FRACTION):
            raise UsageError(
                f"{flag('max_texts')} is {self.max_texts}, but with {flag('queue_texts')} {self.queue_texts} a request "
                f"with more than {most} texts can never be accepted: lower {flag('max_texts')} or raise "
                f"{flag('queue_texts')}"
            )

    def _require_sealed_index(self) -> None:
        """Raise UsageError if the digests are not valid, or if the index cannot be checked by them or by the key."""
        name = "key" if self.key else "digests"
        try:
            expected = self.expected_digests
        except UsageError as error:
            raise UsageError(f"{flag('digests')} ({variable('digests')}): {error}") from None
        if self.digests is not None and not expected:
            raise UsageError(f"{flag('digests')} ({variable('digests')}) is empty: list digests, or leave it out")
        if not self.key and not expected:
            return
        if self.writable:
            raise UsageError(
                f"{flag(name)} and {flag('writable')} exclude each other, because changes are not signed: leave one out"
            )
        if other := next((each for each in (self.index, self.candidate_index) if isinstance(each, Address)), None):
            raise UsageError(
                f"{flag(name)} cannot check {other}, because an index in Milvus has no signature: use an index folder, "
                f"or leave {flag(name)} out"
            )

    @property
    def expected_digests(self) -> frozenset[str]:
        """The digests that bundle.json and index.json may have; empty if all are accepted. Raises UsageError."""
        names = (name.strip() for name in (self.digests or "").split(","))
        return frozenset(require_digest(name) for name in names if name)

    @property
    def workers(self) -> tuple[device.DeviceAddress, ...]:
        """Devices, each with its own worker process. Empty: the model runs inside this process."""
        return () if self.devices in _IN_PROCESS else device.parse_devices(self.devices)

    def lines(self, every: bool = False) -> list[str]:
        """Return `name = value` lines for the log at startup: settings that differ from the defaults, or `every` one.

        They contain no secrets: keys are not settings.
        """
        values = [(each, getattr(self, each.name)) for each in fields(self)]
        return [f"{each.name} = {value}" for each, value in values if every or value != each.default]


RANGES = MappingProxyType(
    {each.name: each.metadata["allowed"] for each in fields(Settings) if each.metadata["allowed"]}
)


def flag(name: str) -> str:
    """Return the command-line flag of a setting: --max-texts for max_texts."""
    return "--" + name.replace("_", "-")


def variable(name: str) -> str:
    """Return the environment variable of a setting: EMBEDSHIP_MAX_TEXTS for max_texts."""
    return "EMBEDSHIP_" + name.upper()
