"""Lightweight load client: raw HTTP/1.1 on keep-alive connections, prepared requests, response bodies not parsed.

It shares the cores with the server and reports its own delay. In an open loop, latencies are measured from the
scheduled time of a request, not from the time it was sent, so that a stalled server cannot hide its delays (coordinated
omission). As a program it runs in its own process, see `main`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

_PATIENCE = 30.0  # seconds after the scheduled time of the last request


class Address(NamedTuple):
    host: str
    port: int


class Answer(NamedTuple):
    """Times of a request in seconds since the start of the load. If `sent` is later than `due`, the client was late."""

    status: int
    due: float
    sent: float
    done: float


class Load(NamedTuple):
    """Result of a load. `seconds`: the time during which requests were sent."""

    answers: list[Answer]
    seconds: float
    lost: int

    @property
    def latencies(self) -> np.ndarray:
        """Return the latencies of responses with status 200, in seconds."""
        return np.array([a.done - a.due for a in self.answers if a.status == 200])

    @property
    def rate(self) -> float:
        """Return responses with status 200 per second, received while requests were sent."""
        return sum(a.status == 200 and a.done <= self.seconds for a in self.answers) / self.seconds

    def summary(self) -> dict[str, Any]:
        took, lag = self.latencies, np.array([a.sent - a.due for a in self.answers])
        quantiles = {f"p{q:g}_ms": round(float(np.percentile(took, q)) * 1e3, 3) for q in (50, 90, 99, 99.9)}
        return {
            "requests_per_second": round(self.rate, 1),
            "statuses": {str(status): n for status, n in sorted(Counter(a.status for a in self.answers).items())},
            "lost": self.lost,
            **(quantiles | {"max_ms": round(float(took.max()) * 1e3, 3)} if len(took) else {}),
            "client_lag_p99_ms": round(float(np.percentile(lag, 99)) * 1e3, 3) if len(lag) else 0.0,
        }


def post(path: str, body: object, **headers: str) -> bytes:
    """Return a complete HTTP request that can be sent repeatedly."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: bench",
        "Content-Type: application/json",
        f"Content-Length: {len(content)}",
    ]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


class Connection(asyncio.Protocol):
    """Connection: one request at a time. Reads only the status and the length of a response."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._left = 0
        self._status = 0
        self._last = False  # the server announced that it will close the connection
        self._answer: asyncio.Future[int] | None = None
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def open(cls, address: Address) -> Connection:
        _, connection = await asyncio.get_running_loop().create_connection(cls, *address)
        return connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports are not subclasses of it

    @property
    def usable(self) -> bool:
        return self._transport is not None and not self._last and not self._transport.is_closing()

    def ask(self, request: bytes) -> asyncio.Future[int]:
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        if self._left:
            self._left -= len(data)
        else:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            lines = bytes(self._head[:end]).lower().split(b"\r\n")
            length = next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
            self._status = int(lines[0].split()[1])
            self._last = b"connection: close" in lines
            self._left = length - (len(self._head) - end - 4)
            self._head.clear()
        if self._left == 0 and self._answer is not None and not self._answer.done():
            self._answer.set_result(self._status)

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error or ConnectionResetError("the server closed the connection"))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def closed(address: Address, requests: Sequence[bytes], connections: int, seconds: float) -> Load:
    """Run a closed loop: each connection sends its next request when the last response arrives."""
    return _run(_closed(address, requests, connections, seconds))


def once(address: Address, requests: Sequence[bytes], connections: int) -> float:
    """Return the seconds until all requests have a response with status 200. Raises RuntimeError for another status."""
    return _run(_once(address, requests, connections))


def opened(address: Address, requests: Sequence[bytes], rate: float, seconds: float, seed: int) -> Load:
    """Run an open loop: Poisson arrivals at `rate` requests per second, independent of earlier responses."""
    return _run(_opened(address, requests, poisson(rate, seconds, seed), seconds))


def poisson(rate: float, seconds: float, seed: int) -> list[float]:
    """Return arrival times in seconds, at `rate` per second."""
    gaps = np.random.default_rng(seed).exponential(1 / rate, int(rate * seconds * 1.5) + 20)
    due = np.cumsum(gaps)
    return due[due < seconds].tolist()


def _run(work: Any) -> Any:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


async def _closed(address: Address, requests: Sequence[bytes], connections: int, seconds: float) -> Load:
    answers: list[Answer] = []
    began = time.perf_counter()

    async def one(first: int) -> None:
        connection = await Connection.open(address)
        for i in range(first, 1 << 40, connections):
            sent = time.perf_counter() - began
            if sent >= seconds:
                break
            status = await connection.ask(requests[i % len(requests)])
            answers.append(Answer(status, sent, sent, time.perf_counter() - began))
        connection.close()

    await asyncio.wait_for(asyncio.gather(*(one(i) for i in range(connections))), seconds + _PATIENCE)
    return Load(answers, seconds, 0)


async def _once(address: Address, requests: Sequence[bytes], connections: int) -> float:
    left = deque(requests)
    links = [await Connection.open(address) for _ in range(connections)]
    began = time.perf_counter()

    async def one(link: Connection) -> None:
        while left:
            if (status := await link.ask(left.popleft())) != 200:
                raise RuntimeError(f"a request got status {status}, expected 200")

    await asyncio.gather(*map(one, links))
    took = time.perf_counter() - began
    for link in links:
        link.close()
    return took


def _usable(idle: list[Connection]) -> Connection | None:
    """Return a usable connection. A full server closes the connection of a rejected request, so it is not reused."""
    while idle:
        if (connection := idle.pop()).usable:
            return connection
        connection.close()
    return None


async def _opened(address: Address, requests: Sequence[bytes], due: list[float], seconds: float) -> Load:
    loop = asyncio.get_running_loop()
    idle = [await Connection.open(address) for _ in range(64)]
    answers: list[Answer] = []
    tasks: set[asyncio.Task[None]] = set()
    stop = threading.Event()
    began = time.perf_counter() + 0.05

    async def one(number: int) -> None:
        connection = _usable(idle) or await Connection.open(address)
        sent = time.perf_counter() - began
        status = await connection.ask(requests[number % len(requests)])
        answers.append(Answer(status, due[number], sent, time.perf_counter() - began))
        idle.append(connection)

    def fire(number: int) -> None:
        tasks.add(task := loop.create_task(one(number)))
        task.add_done_callback(tasks.discard)

    def ticks() -> None:
        """Sleep in a thread, which is accurate to 0.1 ms. The event loop's timers are rounded up to 1 ms."""
        for number, moment in enumerate(due):
            if stop.wait(max(0.0, began + moment - time.perf_counter())):
                return
            loop.call_soon_threadsafe(fire, number)

    clock = threading.Thread(target=ticks, daemon=True)
    clock.start()
    try:
        await asyncio.sleep(seconds + 0.05)
        end = time.perf_counter() + _PATIENCE
        while (tasks or clock.is_alive()) and time.perf_counter() < end:
            await asyncio.wait(tasks, timeout=0.1) if tasks else await asyncio.sleep(0.01)
    finally:
        stop.set()
    for task in tasks:
        task.cancel()
    for connection in idle:
        connection.close()
    return Load(answers, seconds, len(due) - len(answers))


def main() -> None:
    """Run a closed loop with requests from a file (JSON list of complete requests). Prints the summary to stdout."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("requests", type=Path)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    requests = [text.encode("latin-1") for text in json.loads(options.requests.read_text())]
    load = closed(Address("127.0.0.1", options.port), requests, options.connections, options.seconds)
    print(json.dumps(load.summary()))


if __name__ == "__main__":
    main()
