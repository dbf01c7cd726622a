"""Logging to stderr, as text or as JSON objects. Every record is one line, including those of libraries.

Texts, keys and headers of requests are never logged. A request is identified by its id.
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

from embedship import terminal
from embedship.serve.telemetry.request_context import RequestContext, current_request
from embedship.terminal import Verbosity

logger = logging.getLogger("embedship.access")

# Worker processes inherit the log format of the server through this variable.
VARIABLE = "EMBEDSHIP_LOG_FORMAT"

# Keys of `extra`: the ids of the requests that a line is about, and additional fields of a JSON line.
REQUESTS = "requests"
FIELDS = "fields"

# Characters that could end a line or control a terminal: C0, DEL, C1, and Unicode's line separators.
_CONTROLS = {code: ascii(chr(code))[1:-1] for code in (*range(32), *range(127, 160), 0x2028, 0x2029)}
# Those that the JSON encoder writes unescaped, because JSON allows it.
_ESCAPED = {code: f"\\u{code:04x}" for code in _CONTROLS if code >= 32}


class LogFormat(StrEnum):
    TEXT = "text"
    JSON = "json"


def configure_logging(log_format: LogFormat, device: str | None = None) -> None:
    """Configure logging, including warnings and uncaught exceptions. `device` names a worker process."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter(device) if log_format is LogFormat.JSON else TextFormatter(device, sys.stderr.isatty())
    )
    level = logging.WARNING if terminal.verbosity() is Verbosity.QUIET else logging.INFO
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    if log_format is LogFormat.JSON:
        sys.excepthook = _uncaught
        threading.excepthook = lambda exception: _uncaught(
            exception.exc_type, exception.exc_value, exception.exc_traceback
        )


class TextFormatter(logging.Formatter):
    """Formats a record as one line of text; only the traceback of an exception takes more lines."""

    def __init__(self, device: str | None = None, short: bool = False) -> None:
        """Start each line with its time, level and logger. `short`, for a terminal, omits the date and the logger."""
        if short:
            super().__init__(f"%(asctime)s %(levelname)s {f'{device}: ' if device else ''}%(message)s", "%H:%M:%S")
        else:
            super().__init__(f"%(asctime)s %(levelname)s {device or '%(name)s'}: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        line = super().formatMessage(record).translate(_CONTROLS)
        return f"{line} [{', '.join(ids)}]" if (ids := _request_ids(record)) else line


class JsonFormatter(logging.Formatter):
    """Formats a record as JSON: time, level, logger and message. If known, also device, request_id or requests,
    trace_id and exception.
    """

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
        line |= _request_fields(record) | getattr(record, FIELDS, {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _encode(line)


def _request_ids(record: logging.LogRecord) -> list[str]:
    """Return the ids of the requests that a line is about: the current request, or those in the record."""
    context = current_request.get()
    return [context.id] if context else getattr(record, REQUESTS, [])


def _request_fields(record: logging.LogRecord) -> dict[str, Any]:
    if context := current_request.get():
        return {"request_id": context.id, **({"trace_id": context.trace} if context.trace else {})}
    return {REQUESTS: ids} if (ids := _request_ids(record)) else {}


def _encode(line: dict[str, Any]) -> str:
    try:
        return msgspec.json.encode(line, enc_hook=str).decode().translate(_ESCAPED)
    except UnicodeEncodeError:  # lone surrogates, which Python uses for bytes of paths that are not UTF-8
        return _encode({key: _escape_surrogates(value) for key, value in line.items()})


def _escape_surrogates(value: Any) -> Any:
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


def log_access(context: RequestContext, method: str, route: str, status: int, seconds: float) -> None:
    """Log one answered request. `seconds` is the time from its first received byte to the last byte of its response."""
    phases, tokens = context.seconds(), sum(context.lengths)
    times = ", ".join(f"{phase} {1e3 * phase_seconds:.2f}" for phase, phase_seconds in phases.items())
    message = f"{method} {route} {status}, {len(context.lengths)} texts, {tokens} tokens, {1e3 * seconds:.2f} ms"
    fields = {
        "method": method,
        "route": route,
        "status": status,
        "texts": len(context.lengths),
        "tokens": tokens,
        "seconds": {
            str(phase): round(phase_seconds, 6) for phase, phase_seconds in (("total", seconds), *phases.items())
        },
    }
    logger.info("%s", f"{message} ({times})" if times else message, extra={FIELDS: fields})


def _uncaught(kind: type[BaseException], error: BaseException | None, at: TracebackType | None) -> None:
    if error and issubclass(kind, Exception):
        logging.getLogger(__name__).critical("uncaught %s", kind.__name__, exc_info=(kind, error, at))
