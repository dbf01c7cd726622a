"""Runs a rendered container as a local process, as the kubelet would, and a proxy that learns of changes late."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

# Time until every node's kube-proxy knows a changed endpoint: most of a second in a small cluster.
PROPAGATION_SECONDS = 1.0


class Pod:
    """Pod: one container of `spec` as a process. `mounts` maps mount paths of the container to local folders."""

    def __init__(self, spec: dict[str, Any], mounts: dict[str, Path]) -> None:
        self._spec = spec
        self._container: dict[str, Any] = spec["containers"][0]
        self._mounts = mounts
        self.port = free_port()
        self.log: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _here(self, text: str) -> str:
        """Replace a mount path at the start of `text` by the local folder."""
        for mount, folder in self._mounts.items():
            if text == mount or text.startswith(mount + "/"):
                return str(folder) + text[len(mount) :]
        return text

    def _environment(self) -> dict[str, str]:
        """Return the rendered environment with a local address, because this process shares the host's network."""
        given = {each["name"]: self._here(each["value"]) for each in self._container["env"]}
        port = str(next(each["containerPort"] for each in self._container["ports"] if each["name"] == "http"))
        assert (given["EMBEDSHIP_HOST"], given["EMBEDSHIP_PORT"]) == ("0.0.0.0", port), "address used by the probes"
        ours = {"EMBEDSHIP_HOST": "127.0.0.1", "EMBEDSHIP_PORT": str(self.port)}
        return {"PATH": os.environ["PATH"], "HOME": self._here("/tmp"), "COLUMNS": "1000", **given, **ours}

    async def start(self) -> None:
        """Return when the startup probe and the readiness probe have passed, within their time limits."""
        (program,) = self._container["command"]
        command = [str(Path(sys.executable).parent / program), *map(self._here, self._container["args"])]
        self.process = await asyncio.create_subprocess_exec(
            *command, env=self._environment(), cwd=self._here("/tmp"), stderr=asyncio.subprocess.PIPE
        )
        self._reader = asyncio.create_task(self._read())
        await self._passes("startupProbe")
        await self._passes("readinessProbe")

    async def _read(self) -> None:
        assert self.process.stderr
        async for line in self.process.stderr:
            self.log.append(line.decode())

    async def _passes(self, name: str) -> None:
        probe = self._container[name]
        for _ in range(probe["failureThreshold"] if name == "startupProbe" else 10):
            if await self.probe(name):
                return
            assert self.process.returncode is None, "".join(self.log)
            await asyncio.sleep(probe["periodSeconds"])
        raise AssertionError(f"{name} did not pass: {''.join(self.log)}")

    async def probe(self, name: str) -> bool:
        probe = self._container[name]
        assert probe["httpGet"]["port"] == "http"
        async with httpx.AsyncClient(base_url=self.url, timeout=probe["timeoutSeconds"]) as client:
            try:
                answer = await client.get(probe["httpGet"]["path"])
            except httpx.TransportError:
                return False
            return answer.is_success

    async def stop(self) -> int:
        """Run preStop and send SIGTERM, then SIGKILL after the grace period, which gives a negative exit code."""
        grace = self._spec["terminationGracePeriodSeconds"]
        sleep = self._container["lifecycle"]["preStop"]["sleep"]["seconds"]
        await asyncio.sleep(sleep)
        self.process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self.process.wait(), grace - sleep)
        except TimeoutError:
            await self.kill()
        await self._reader
        assert self.process.returncode is not None
        return self.process.returncode

    async def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()


def free_port() -> int:
    """Return a free port. A container would not need it because it has its own network."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Proxy:
    """Proxy: sends each new connection to the next endpoint, as kube-proxy does."""

    def __init__(self) -> None:
        self._endpoints: list[Pod] = []
        self._turn = itertools.count()
        self.port = 0

    async def learn(self, endpoints: list[Pod]) -> None:
        """Change the endpoints. The proxy uses the new ones one second later."""
        await asyncio.sleep(PROPAGATION_SECONDS)
        self._endpoints = list(endpoints)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        endpoint = self._endpoints[next(self._turn) % len(self._endpoints)]
        try:
            upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", endpoint.port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(_pipe(reader, upstream_writer), _pipe(upstream_reader, writer))


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while block := await reader.read(65_536):
            writer.write(block)
            await writer.drain()
    with contextlib.suppress(ConnectionError):
        writer.close()
        await writer.wait_closed()
