"""Work on a thread that ends soon after nobody waits for its result any more.

A coroutine that is cancelled, because its deadline has passed or its client has gone, does not end the thread that
works for it. The work asks `check` between its steps, SQLite asks `requested` every few thousand instructions.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar

Got = TypeVar("Got")

# Instructions of SQLite's virtual machine between two questions: some 100 us.
_INSTRUCTIONS = 5_000


class Holder(Protocol):
    """Something that is held until work has ended: a permit of the queue."""

    def hold_until(self, done: asyncio.Future[Any]) -> None:
        """Give it back when `done` is done."""


class WorkStopped(Exception):
    """The work was given up; nobody waits for it."""


class StopSignal:
    """Set by the event loop, read by the thread that works."""

    def __init__(self) -> None:
        self.requested = False

    def run(self, work: Callable[[], Got]) -> Got:
        """Do the work on this thread, which `check` and `requested` then ask about. Raises Stopped."""
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
    """Whether the work of this thread is to stop; False for work that nobody can stop."""
    signal = _CURRENT.get()
    return signal is not None and signal.requested


def check() -> None:
    """Raise Stopped where it is."""
    if requested():
        raise WorkStopped


def interruptible(connection: sqlite3.Connection) -> sqlite3.Connection:
    """The connection, whose statements end with SQLITE_INTERRUPT when the work of their thread is to stop."""
    connection.set_progress_handler(requested, _INSTRUCTIONS)
    return connection


async def on_thread(threads: ThreadPoolExecutor, work: Callable[[], Got], permit: Holder | None = None) -> Got:
    """Do the work on one of the threads. When the caller is cancelled, the work is asked to stop.

    `permit` is given back only when the work has ended: what still costs time counts as being in the queue.
    """
    signal = StopSignal()
    submitted = threads.submit(signal.run, work)
    done = asyncio.wrap_future(submitted)
    if permit:
        permit.hold_until(done)
    try:
        await asyncio.wait([done])
    except asyncio.CancelledError:
        if not submitted.cancel():  # it runs
            signal.requested = True
            done.add_done_callback(_forget)
        raise
    return done.result()


def _forget(done: asyncio.Future[Got]) -> None:
    if not done.cancelled():
        done.exception()  # else asyncio logs that nobody asked for it
