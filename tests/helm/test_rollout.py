"""The rendered container runs as a process, with its command, args, env, ports, probes, preStop and grace period.

Two replicas are replaced one after the other, in the rendered strategy's order, while clients with persistent
connections send requests. A request that is rejected, reset or answered with a status other than 200 is a failure.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .local_pods import Pod, Proxy
from .manifests import one, render

SECONDS = 600  # a limit for a hang; a busy machine takes a multiple of the usual half minute
PAUSE_SECONDS = 0.02  # between two requests of a client, because starting servers also need the cores
BODY = b'{"inputs": "how do I open a file for reading in python"}'
REQUEST = b"POST /embed HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n%s" % (len(BODY), BODY)


async def client(port: int, seen: Counter[str], stop: asyncio.Event) -> None:
    """Send requests over one connection until the server announces its end, then over another."""
    while not stop.is_set():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            while not stop.is_set() and await ask(reader, writer, seen):
                pass
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            seen[f"lost: {error!r}"] += 1
        finally:
            writer.close()


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Counter[str]) -> bool:
    """Send one request. Return whether the connection can be reused."""
    writer.write(REQUEST)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
    seen[head.split(b"\r\n")[0].decode()] += 1
    await asyncio.sleep(PAUSE_SECONDS)
    return b"connection: close" not in head


async def roll(deployment: dict[str, Any], make: Callable[[], Pod]) -> tuple[Counter[str], list[int], list[Pod]]:
    """Start the replicas and replace each under load. Return the clients' results and the old pods' exit codes."""
    spec = deployment["spec"]
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    proxy, seen, stop, pods = Proxy(), Counter[str](), asyncio.Event(), [make() for _ in range(spec["replicas"])]
    made, codes = list(pods), []
    try:
        await asyncio.gather(*(pod.start() for pod in pods))
        await proxy.learn(pods)
        async with proxy.listening():
            asking = [asyncio.create_task(client(proxy.port, seen, stop)) for _ in range(6)]
            for old in list(pods):
                new = make()
                made.append(new)
                await new.start()
                await proxy.learn([*pods, new])
                await old._passes("livenessProbe")  # alive under load
                pods = [pod for pod in (*pods, new) if pod is not old]
                code, _ = await asyncio.gather(old.stop(), proxy.learn(pods))
                codes.append(code)
            stop.set()
            await asyncio.gather(*asking)
    finally:
        await asyncio.gather(*(pod.kill() for pod in made))
    return seen, codes, made


@pytest.fixture
def mounts(bundle: Path, tmp_path: Path) -> dict[str, Path]:
    """Return local folders for the container's volumes."""
    folders = {f"/{name}": tmp_path / name for name in ("state", "cache", "tmp")}
    for folder in folders.values():
        folder.mkdir()
    return {"/bundle": bundle, **folders}


def made_by_the_chart(helm: Path, mounts: dict[str, Path], **values: Any) -> tuple[dict[str, Any], Callable[[], Pod]]:
    """Return the Deployment and a function that starts one of its pods, with local folders only for its mounts."""
    server = {"streams": 1, "shadow_rate": 0.0}
    deployment = one(render(helm, {"server": server, **values}), "Deployment")
    spec = deployment["spec"]["template"]["spec"]
    assert {each["mountPath"] for each in spec["containers"][0]["volumeMounts"]} == set(mounts)
    return deployment, lambda: Pod(spec, mounts)


def test_no_request_fails_while_replicas_are_replaced(helm: Path, mounts: dict[str, Path]) -> None:
    deployment, make = made_by_the_chart(helm, mounts, drain={"seconds": 9})
    seen, codes, made = asyncio.run(asyncio.wait_for(roll(deployment, make), SECONDS))
    assert set(seen) == {"http/1.1 200 ok"}, seen
    assert seen.total() > 100
    assert codes == [0, 0], "ended without SIGKILL, within the grace period"
    for pod in made[:2]:
        assert pod.log[-1].endswith(": stopped\n")
        assert any(line.endswith("drain_seconds = 4.0\n") for line in pod.log)


def test_without_the_drain_requests_fail(helm: Path, mounts: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The same with pods that end immediately loses requests, which proves that the test above can fail."""

    async def killed(pod: Pod) -> int:
        await pod.kill()
        return -9

    monkeypatch.setattr(Pod, "stop", killed)
    deployment, make = made_by_the_chart(helm, mounts, replicas=1)
    seen, _, _ = asyncio.run(asyncio.wait_for(roll(deployment, make), SECONDS))
    assert any(key.startswith("lost") for key in seen), seen
