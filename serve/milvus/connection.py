"""Connection to Milvus: every call has a timeout, and calls fail at once while the server is unreachable."""

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

# Timeouts of searches, and of slow calls: an exact search, loading a collection.
QUICK_SECONDS = 5.0
SLOW_SECONDS = 120.0

# An environment variable and not an option, because the server logs its options and this is a secret.
TOKEN = "EMBEDSHIP_MILVUS_TOKEN"

# After a failure no call is made for this long, and then one call at a time: a server that hangs must not block every
# thread.
PAUSE_SECONDS = 1.0


class MilvusConnection:
    """A connection to Milvus. Thread-safe. pymilvus reconnects by itself, and repeats calls that were lost."""

    def __init__(self, client: Any, address: Address, seconds: float) -> None:
        self._client = client
        self._address = address
        self._seconds = seconds
        self._lock = Lock()
        self._failed_at: float | None = None  # time of the last failure; None after a successful call
        self._probing = False

    @classmethod
    def open(cls, address: Address, seconds: float) -> Self:
        """Connect. `seconds` is the timeout per call. Raises BackendUnavailable, MissingExtra, UsageError."""
        try:
            token = os.environ.get(TOKEN, "")
            client = MilvusClient(address.uri, token=token, timeout=min(seconds, QUICK_SECONDS), dedicated=True)
            return cls(client, address, seconds)
        except ConnectionConfigException as error:
            if address.local and find_spec("milvus_lite") is None:
                raise MissingExtra("milvus-lite", "milvus") from None
            reason = "its folder must exist, and only one process at a time can open a file of Milvus Lite"
            raise BackendUnavailable(f"{address} cannot be opened: {reason}") from error
        except (MilvusException, grpc.RpcError) as error:
            if _is_unauthenticated(error):
                raise UsageError(
                    f"{address} rejects the login: set {TOKEN} to the right USER:PASSWORD or API key"
                ) from None
            raise BackendUnavailable(_unreachable(address)) from error

    def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Call a method of the client and return its result.

        Raises BackendUnavailable, at once while the server is unreachable, and BackendRejected if Milvus returns an
        error.
        """
        self._begin_call()
        try:
            result = getattr(self._client, method)(
                *arguments, timeout=self._seconds, retry_on_rate_limit=False, **options
            )
        except grpc.RpcError as error:
            self._end_call(failed=True)
            raise BackendUnavailable(_unreachable(self._address)) from error
        except MilvusException as error:
            failed = isinstance(error.code, grpc.StatusCode) or error.code == Status.CONNECT_FAILED
            self._end_call(failed)
            if failed:
                raise BackendUnavailable(_unreachable(self._address)) from error
            raise BackendRejected(f"{self._address} rejected a request: {_message(error)}") from error
        except BaseException:
            self._end_call(failed=False)
            raise
        self._end_call(failed=False)
        return result

    def close(self) -> None:
        self._client.close()

    def _begin_call(self) -> None:
        with self._lock:
            if self._failed_at is None:
                return
            if self._probing or time.monotonic() < self._failed_at + PAUSE_SECONDS:
                raise BackendUnavailable(_unreachable(self._address))
            self._probing = True

    def _end_call(self, failed: bool) -> None:
        with self._lock:
            self._failed_at = time.monotonic() if failed else None
            self._probing = False


def _unreachable(address: Address) -> str:
    return f"{address} does not answer: check that Milvus is running and reachable from this machine"


def _is_unauthenticated(error: Exception) -> bool:
    cause = error.__cause__ if isinstance(error, MilvusException) else error
    return isinstance(cause, grpc.RpcError) and cause.code() is grpc.StatusCode.UNAUTHENTICATED


def _message(error: Exception) -> str:
    """Return Milvus' error message on one line."""
    return " ".join(str(getattr(error, "message", error)).split())
