"""One connection to Milvus. A call fails when its time is over; while the server is away, calls fail at once."""

from __future__ import annotations

import os
import time
from importlib.util import find_spec
from threading import Lock
from typing import Any, Self

from embedship.errors import MissingExtra, UsageError
from embedship.serve.milvus.pymilvus_library import (
    ConnectionConfigException,
    MilvusClient,
    MilvusException,
    Status,
    grpc,
)
from embedship.serve.search.address import Address
from embedship.serve.search.backend import BackendRejected, BackendUnavailable

# What a search may wait for, and what may take its time: an exact search, loading a collection.
QUICK_SECONDS = 5.0
SLOW_SECONDS = 120.0

# A secret, so no option: the log of a server shows those.
TOKEN = "EMBEDSHIP_MILVUS_TOKEN"

# So long after a failure nobody asks, and then one does: a server that hangs must not take every thread.
PAUSE_SECONDS = 1.0


class MilvusConnection:
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
            token = os.environ.get(TOKEN, "")
            client = MilvusClient(address.uri, token=token, timeout=min(seconds, QUICK_SECONDS), dedicated=True)
            return cls(client, address, seconds)
        except ConnectionConfigException as error:
            if address.local and find_spec("milvus_lite") is None:
                raise MissingExtra("milvus-lite", "milvus") from None
            why = "its folder must be there, and a file of Milvus Lite has one owner at a time"
            raise BackendUnavailable(f"{address} cannot be opened: {why}") from error
        except (MilvusException, grpc.RpcError) as error:
            if _unknown(error):
                cure = f"put it in {TOKEN}, as USER:PASSWORD or as an API key"
                raise UsageError(f"{address} lets nobody in without the right token: {cure}") from None
            raise BackendUnavailable(_away(address)) from error

    def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        """What the client's method returns. Raises Lost, at once while the server is away; Refused if it will not."""
        self._enter()
        try:
            got = getattr(self._client, method)(*arguments, timeout=self._seconds, retry_on_rate_limit=False, **options)
        except grpc.RpcError as error:
            self._leave(failed=True)
            raise BackendUnavailable(_away(self._address)) from error
        except MilvusException as error:
            failed = isinstance(error.code, grpc.StatusCode) or error.code == Status.CONNECT_FAILED
            self._leave(failed)
            if failed:
                raise BackendUnavailable(_away(self._address)) from error
            raise BackendRejected(f"{self._address} does not do what it is asked: {_said(error)}") from error
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
                raise BackendUnavailable(_away(self._address))
            self._probing = True

    def _leave(self, failed: bool) -> None:
        with self._lock:
            self._fell = time.monotonic() if failed else None
            self._probing = False


def _away(address: Address) -> str:
    return f"{address} does not answer: see that it runs, and can be reached from here"


def _unknown(error: Exception) -> bool:
    """Whether we are, to the server."""
    told = error.__cause__ if isinstance(error, MilvusException) else error
    return isinstance(told, grpc.RpcError) and told.code() is grpc.StatusCode.UNAUTHENTICATED


def _said(error: Exception) -> str:
    """What Milvus says of it, on one line."""
    return " ".join(str(getattr(error, "message", error)).split())
