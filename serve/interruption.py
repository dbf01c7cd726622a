"""Interruption: ends work on a thread soon after no caller waits for its result any more.

Cancelling a coroutine, because its timeout has passed or its client has disconnected, does not end the thread that
works for it. The work therefore calls `check` between its steps, and SQLite calls `requested` every few thousand
instructions.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar

Result = TypeVar("Result")

# Instructions of SQLite's virtual machine between two checks: about 100 us.
_INSTRUCTIONS = 5_000


class Holder(Protocol):
    """A resource that stays in use until the work has ended, for example a permit of the queue."""

    def hold_until(self, done: asyncio.Future[Any]) -> None:
        """Release the resource when `done` is done."""


class WorkStopped(Exception):
    """The work was interrupted; no caller waits for its result."""


class StopSignal:
    """Stop request for work on a thread: set by the event loop, read by the thread."""

    def __init__(self) -> None:
        self.requested = False

    def run(self, work: Callable[[], Result]) -> Result:
        """Do the work on this thread; `check` and `requested` then read this signal. Raises WorkStopped."""
        token = _CURRENT.set(self)
        try:
            check()
            return work()
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
                raise WorkStopped from None
            raise
        finally:
            _CURRENT.reset(token)


_CURRENT: ContextVar[StopSignal | None] = ContextVar("stop", default=None)


def requested() -> bool:
    """Return whether the work on this thread should stop. False for work that cannot be stopped."""
    signal = _CURRENT.get()
    return signal is not None and signal.requested


def check() -> None:
    """Raise WorkStopped if the work on this thread should stop."""
    if requested():
        raise WorkStopped


def interruptible(connection: sqlite3.Connection) -> sqlite3.Connection:
    """Make statements of this connection end with SQLITE_INTERRUPT when the work on their thread should stop."""
    connection.set_progress_handler(requested, _INSTRUCTIONS)
    return connection


async def on_thread(threads: ThreadPoolExecutor, work: Callable[[], Result], permit: Holder | None = None) -> Result:
    """Run the work on one of the threads and return its result. Cancelling the caller asks the work to stop.

    `permit` is released only when the work has ended, because work that still runs must count as queued.
    """
    signal = StopSignal()
    submitted = threads.submit(signal.run, work)
    done = asyncio.wrap_future(submitted)
    if permit:
        permit.hold_until(done)
    try:
        await asyncio.wait([done])
    except asyncio.CancelledError:
        if not submitted.cancel():  # it already runs
            signal.requested = True
            done.add_done_callback(_forget)
        raise
    return done.result()


def _forget(done: asyncio.Future[Result]) -> None:
    if not done.cancelled():
        done.exception()  # otherwise asyncio logs an exception that was never retrieved
