"""One connection to Milvus. A call fails when its time is over; while the server is away, calls fail at once."""

from __future__ import annotations

import logging
import time
from threading import Lock
from typing import Any, Self

from embedship.errors import MissingExtra
from embedship.serve.milvus import Lost, Refused
from embedship.serve.milvus.address import Address

try:
    import grpc
    from pymilvus import MilvusClient
    from pymilvus.client.types import Status
    from pymilvus.exceptions import ConnectionConfigException, MilvusException
except ImportError as error:
    raise MissingExtra("pymilvus", "milvus") from error

# They log every failure themselves, with a trace of their stack: what goes wrong is said once, by who asked.
for name in ("pymilvus", "milvus_lite"):
    logging.getLogger(name).setLevel(logging.CRITICAL)

# What a search may wait for, and what may take its time: an exact search, loading a collection.
QUICK_SECONDS = 5.0
SLOW_SECONDS = 120.0

# So long after a failure nobody asks, and then one does: a server that hangs must not take every thread.
PAUSE_SECONDS = 1.0


class Line:
    """Thread-safe. pymilvus connects anew by itself, and tries a call again that the old connection lost."""

    def __init__(self, client: Any, address: Address, seconds: float) -> None:
        self._client = client
        self._address = address
        self._seconds = seconds
        self._lock = Lock()
        self._fell: float | None = None  # when the last call failed that nobody has followed with success
        self._probing = False

    @classmethod
    def open(cls, address: Address, seconds: float) -> Self:
        """`seconds` is what a call may take. Raises Lost, MissingExtra."""
        try:
            client = MilvusClient(address.uri, timeout=min(seconds, QUICK_SECONDS), dedicated=True)
            return cls(client, address, seconds)
        except ConnectionConfigException as error:
            if "milvus-lite is required" in str(error):
                raise MissingExtra("milvus-lite", "milvus") from None
            raise Lost(
                f"{address} cannot be opened: its folder must be there, and a file of Milvus Lite has one owner at a time"
            ) from error
        except (MilvusException, grpc.RpcError) as error:
            raise Lost(_away(address)) from error

    def ask(self, method: str, *arguments: Any, **options: Any) -> Any:
        """What the client's method returns. Raises Lost, at once while the server is away; Refused if it will not."""
        self._enter()
        try:
            got = getattr(self._client, method)(*arguments, timeout=self._seconds, retry_on_rate_limit=False, **options)
        except grpc.RpcError as error:
            self._leave(failed=True)
            raise Lost(_away(self._address)) from error
        except MilvusException as error:
            failed = isinstance(error.code, grpc.StatusCode) or error.code == Status.CONNECT_FAILED
            self._leave(failed)
            if failed:
                raise Lost(_away(self._address)) from error
            raise Refused(f"{self._address} does not do what it is asked: {_said(error)}") from error
        except BaseException:
            self._leave(failed=False)
            raise
        self._leave(failed=False)
        return got

    def close(self) -> None:
        self._client.close()

    def _enter(self) -> None:
        with self._lock:
            if self._fell is None:
                return
            if self._probing or time.monotonic() < self._fell + PAUSE_SECONDS:
                raise Lost(_away(self._address))
            self._probing = True

    def _leave(self, failed: bool) -> None:
        with self._lock:
            self._fell = time.monotonic() if failed else None
            self._probing = False


def _away(address: Address) -> str:
    return f"{address} does not answer: is it running, and can it be reached from here"


def _said(error: Exception) -> str:
    """What Milvus says of it, on one line."""
    return " ".join(str(getattr(error, "message", error)).split())
