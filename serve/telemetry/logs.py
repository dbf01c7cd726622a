"""What the server says on stderr: lines to read, or JSON objects to collect. One record is one line, whoever wrote it.

Texts, keys and headers of requests are never said; a request is named by its id.
"""

from __future__ import annotations

import logging
import sys
import threading
from datetime import UTC, datetime
from enum import StrEnum
from types import TracebackType
from typing import Any

import msgspec

from embedship.serve.telemetry.request_context import RequestContext, current_request

logger = logging.getLogger("embedship.access")

# Worker processes log as their server does.
VARIABLE = "EMBEDSHIP_LOG_FORMAT"

# Keys of `extra`: the ids of the requests that a line is about, and what a JSON line says beside its message.
REQUESTS = "requests"
FIELDS = "fields"

# What could end a line, or steer a terminal: C0, DEL, C1, and Unicode's own line ends.
_CONTROLS = {code: ascii(chr(code))[1:-1] for code in (*range(32), *range(127, 160), 0x2028, 0x2029)}
# Those of them that JSON allows to stand in a string as they are.
_ESCAPED = {code: f"\\u{code:04x}" for code in _CONTROLS if code >= 32}


class LogFormat(StrEnum):
    TEXT = "text"
    JSON = "json"


def configure_logging(form: LogFormat, device: str | None = None) -> None:
    """Log from now on so, warnings and what nobody catches included; `device` names a worker process."""
    out = logging.StreamHandler(sys.stderr)
    out.setFormatter(JsonFormatter(device) if form is LogFormat.JSON else TextFormatter(device))
    logging.basicConfig(level=logging.INFO, handlers=[out], force=True)
    logging.captureWarnings(True)
    if form is LogFormat.JSON:
        sys.excepthook = _uncaught
        threading.excepthook = lambda seen: _uncaught(seen.exc_type, seen.exc_value, seen.exc_traceback)


class TextFormatter(logging.Formatter):
    """A line to read; only the trace of an exception takes more."""

    def __init__(self, device: str | None = None) -> None:
        super().__init__(f"%(asctime)s %(levelname)s {device or '%(name)s'}: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        line = super().formatMessage(record).translate(_CONTROLS)
        return f"{line} [{', '.join(asked)}]" if (asked := _asked(record)) else line


class JsonFormatter(logging.Formatter):
    """{"time", "level", "logger", "message"}, and `device`, `request_id` or `requests`, `trace_id`, `exception`."""

    def __init__(self, device: str | None = None) -> None:
        super().__init__()
        self._device = device

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if self._device:
            line["device"] = self._device
        line |= _whose(record) | getattr(record, FIELDS, {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _encoded(line)


def _asked(record: logging.LogRecord) -> list[str]:
    """The ids of the requests that a line is about: the one that is answered here, or those that its writer named."""
    visit = current_request.get()
    return [visit.id] if visit else getattr(record, REQUESTS, [])


def _whose(record: logging.LogRecord) -> dict[str, Any]:
    if visit := current_request.get():
        return {"request_id": visit.id, **({"trace_id": visit.trace} if visit.trace else {})}
    return {REQUESTS: asked} if (asked := _asked(record)) else {}


def _encoded(line: dict[str, Any]) -> str:
    try:
        return msgspec.json.encode(line, enc_hook=str).decode().translate(_ESCAPED)
    except UnicodeEncodeError:  # half a surrogate pair, as Python makes of a path that is no UTF-8
        return _encoded({key: _whole(value) for key, value in line.items()})


def _whole(value: Any) -> Any:
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


def log_access(visit: RequestContext, method: str, route: str, status: int, seconds: float) -> None:
    """The line of one request that was answered: `seconds` from its first byte here to the last of its answer."""
    phases, tokens = visit.seconds(), sum(visit.lengths)
    times = ", ".join(f"{phase} {1e3 * spent:.2f}" for phase, spent in phases.items())
    message = f"{method} {route} {status}, {len(visit.lengths)} texts, {tokens} tokens, {1e3 * seconds:.2f} ms"
    fields = {
        "method": method,
        "route": route,
        "status": status,
        "texts": len(visit.lengths),
        "tokens": tokens,
        "seconds": {str(phase): round(spent, 6) for phase, spent in (("total", seconds), *phases.items())},
    }
    logger.info("%s", f"{message} ({times})" if times else message, extra={FIELDS: fields})


def _uncaught(kind: type[BaseException], error: BaseException | None, at: TracebackType | None) -> None:
    if error and issubclass(kind, Exception):
        logging.getLogger(__name__).critical("nobody caught %s", kind.__name__, exc_info=(kind, error, at))
