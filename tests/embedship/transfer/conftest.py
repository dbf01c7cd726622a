"""A small bundle, served by every kind of source."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from embedship.bundle import Bundle
from embedship.commands import main
from embedship.transfer import oci
from embedship.transfer.retry import RetryPolicy

from . import servers
from .wire import Wire

LARGE = 3_000_000  # bytes of each graph: several pieces of a stream


@pytest.fixture(scope="session")
def small(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The real bundle's manifest and small files. The graphs are random bytes, because these tests do not run them."""
    folder = tmp_path_factory.mktemp("small") / "bundle"
    opened = Bundle.open(bundle)
    graphs = {variant.path for variant in opened.manifest.variants}
    for name, file in opened.manifest.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name in graphs:
            path.write_bytes(os.urandom(LARGE))
        elif file.size < 1_000_000:
            shutil.copyfile(bundle / name, path)
    (folder / "empty").touch()
    return Bundle.write(folder, opened.manifest)


@pytest.fixture(scope="session")
def docker_registry(tool: Callable[[str], Path]) -> Path:
    return tool("docker-registry")


class Place(NamedTuple):
    """A source of the small bundle: its address through a proxy, and a way to damage its files."""

    address: str
    wire: Wire
    environment: dict[str, str]
    ranges: bool
    damage: Callable[[str, bytes | None], None]  # replaces the named file by these bytes, or removes it


KINDS = ("oci", "s3", "http", "http-without-ranges", "hf")


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, small: Bundle, tmp_path: Path) -> Iterator[Place]:
    with ExitStack() as stack:
        yield _PLACES[request.param](request, stack, small, tmp_path)


def _oci(request: pytest.FixtureRequest, stack: ExitStack, small: Bundle, home: Path) -> Place:
    program = request.getfixturevalue("docker_registry")
    served = stack.enter_context(servers.registry(program, home / "registry"))
    pinned = oci.push(small, f"127.0.0.1:{served.port}/team/small:v1", False, RetryPolicy(1), lambda name, size: None)
    wire = stack.enter_context(Wire(served.port))

    def damage(name: str, content: bytes | None) -> None:
        digest = small.manifest.files[name].sha256
        data = served.folder / "docker/registry/v2/blobs/sha256" / digest[:2] / digest / "data"
        data.unlink() if content is None else data.write_bytes(content)

    return Place(pinned.replace(str(served.port), str(wire.port)), wire, {}, True, damage)


def _s3(request: pytest.FixtureRequest, stack: ExitStack, small: Bundle, home: Path) -> Place:
    port = request.getfixturevalue("moto")
    bucket = f"bucket-{home.name[-20:].strip('-_').replace('_', '-').replace('[', '').replace(']', '').lower()}"
    servers.put(port, bucket, b"")
    for name in ("bundle.json", *small.manifest.files):
        servers.put(port, f"{bucket}/models/small/{name}", small.path(name).read_bytes())
    wire = stack.enter_context(Wire(port))

    def damage(name: str, content: bytes | None) -> None:
        assert content is not None
        servers.put(port, f"{bucket}/models/small/{name}", content)

    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "hidden", "AWS_REGION": "us-east-1"}
    environment = {**keys, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{wire.port}"}
    return Place(f"s3://{bucket}/models/small", wire, environment, True, damage)


def _web(ranges: bool) -> Callable[..., Place]:
    def make(request: pytest.FixtureRequest, stack: ExitStack, small: Bundle, home: Path) -> Place:
        folder = shutil.copytree(small.folder, home / "www" / "small bundle")
        answer = servers.with_ranges if ranges else servers.without_ranges
        server = stack.enter_context(servers.web(home / "www", answer))
        wire = stack.enter_context(Wire(server.port))
        return Place(f"http://127.0.0.1:{wire.port}/small%20bundle/", wire, {}, ranges, _on_disk(folder))

    return make


def _hf(request: pytest.FixtureRequest, stack: ExitStack, small: Bundle, home: Path) -> Place:
    folder = shutil.copytree(small.folder, home / "www" / "team" / "small" / "resolve" / "main")
    server = stack.enter_context(servers.web(home / "www"))
    wire = stack.enter_context(Wire(server.port))
    return Place("hf://team/small@main", wire, {"HF_ENDPOINT": f"http://127.0.0.1:{wire.port}"}, True, _on_disk(folder))


def _on_disk(folder: Path) -> Callable[[str, bytes | None], None]:
    def damage(name: str, content: bytes | None) -> None:
        (folder / name).unlink() if content is None else (folder / name).write_bytes(content)

    return damage


_PLACES: dict[str, Callable[..., Place]] = {
    "oci": _oci,
    "s3": _s3,
    "http": _web(True),
    "http-without-ranges": _web(False),
    "hf": _hf,
}


class Answer(NamedTuple):
    code: int
    stdout: str
    stderr: str


Command = Callable[..., Answer]
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Run `embedship pull` in this process, without any credentials. A new process would take a second to start."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "1000")

    def call(*arguments: object) -> Answer:
        code = main.run(["pull", *map(str, arguments)])
        said = capsys.readouterr()
        return Answer(code, said.out, said.err)

    return call


@pytest.fixture
def run(command: Command, place: Place, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return the JSON answer, with the exit code."""
    for name, value in place.environment.items():
        monkeypatch.setenv(name, value)

    def call(out: Path, *more: object) -> dict[str, Any]:
        answer = command(place.address, "--out", out, "--json", "--retries", 3, *more)
        return {**json.loads(answer.stdout), "code": answer.code, "stderr": answer.stderr}

    return call


@pytest.fixture(scope="session")
def moto(environment: Callable[[str, Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    python = environment("moto", Path(__file__).parent / "moto.txt")
    with servers.s3(python, tmp_path_factory.mktemp("s3")) as port:
        yield port
