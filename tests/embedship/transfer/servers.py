"""Real servers for bundles: Debian's docker-registry, moto's S3, and web servers with and without ranges."""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any, NamedTuple

SECONDS = 180  # how long a test waits before it fails


class Served(NamedTuple):
    """A server's port, and the folder of its data."""

    port: int
    folder: Path


@contextmanager
def registry(program: Path, home: Path, more: str = "") -> Iterator[Served]:
    """Run docker-registry on a free port. `more` is added to its configuration."""
    store, config = home / "store", home / "registry.yml"
    home.mkdir(parents=True, exist_ok=True)
    config.write_text(
        f"version: 0.1\nlog: {{accesslog: {{disabled: true}}}}\nstorage: {{filesystem: {{rootdirectory: {store}}}}}\n"
        f'http: {{addr: "127.0.0.1:0"}}\n{more}'
    )
    with _process([program, "serve", config], rb"listening on 127\.0\.0\.1:(\d+)") as port:
        yield Served(port, store)


@contextmanager
def s3(python: Path, home: Path) -> Iterator[int]:
    """Run moto's S3 server. A bucket exists after a PUT."""
    code = (
        "from moto.server import ThreadedMotoServer as S; import sys\n"
        "s = S('127.0.0.1', 0, verbose=False); s.start()\n"
        "print('port', s.get_host_and_port()[1], file=sys.stderr, flush=True); sys.stdin.read()"
    )
    with _process([python, "-c", code], rb"port (\d+)", cwd=home) as port:
        yield port


@contextmanager
def _process(command: list[Any], pattern: bytes, cwd: Path | None = None) -> Iterator[int]:
    """Run a process and yield the port that it prints on stderr. The rest of stderr is read and discarded."""
    environment = {"PATH": os.environ["PATH"], "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
    process = subprocess.Popen(
        list(map(str, command)), env=environment, cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr
    assert process.stdin
    said: list[bytes] = []
    port = next((int(found[1]) for line in _lines(process.stderr, said) if (found := re.search(pattern, line))), 0)
    rest = threading.Thread(target=said.extend, args=(process.stderr,))
    rest.start()
    try:
        assert port, b"".join(said).decode()
        yield port
    finally:
        process.kill()
        process.wait(SECONDS)
        rest.join()
        process.stdin.close()
        process.stderr.close()


def _lines(stream: IO[bytes], said: list[bytes]) -> Iterator[bytes]:
    for line in stream:
        said.append(line)
        yield line


class Asked(NamedTuple):
    path: str
    range: str | None
    authorization: str | None


class Files(SimpleHTTPRequestHandler):
    """Serves the files of a folder. The server's `answer` decides about ranges, its `asked` records the requests."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        server: Any = self.server
        server.asked.append(Asked(self.path, self.headers["Range"], self.headers["Authorization"]))
        if server.refusals:
            status, headers = server.refusals.pop(0)
            return self._answer(status, headers, b"")
        status, headers, content = server.answer(Path(self.translate_path(self.path)), self)
        return self._answer(status, headers, content)

    def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(content)


Answer = tuple[int, dict[str, str], bytes]


def with_ranges(path: Path, request: Files) -> Answer:
    if not path.is_file():
        return 404, {}, b""
    content = path.read_bytes()
    found = re.fullmatch(r"bytes=(\d+)-", request.headers["Range"] or "")
    if not found:
        return 200, {}, content
    first = int(found[1])
    if first >= len(content):
        return 416, {}, b""
    return 206, {"Content-Range": f"bytes {first}-{len(content) - 1}/{len(content)}"}, content[first:]


def without_ranges(path: Path, request: Files) -> Answer:
    return (200, {}, path.read_bytes()) if path.is_file() else (404, {}, b"")


class Web(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, folder: Path, answer: Callable[[Path, Files], Answer]) -> None:
        super().__init__(("127.0.0.1", 0), partial(Files, directory=str(folder)))
        self.answer = answer
        self.asked: list[Asked] = []
        self.refusals: list[tuple[int, dict[str, str]]] = []

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore errors, because clients in these tests close connections early."""


@contextmanager
def web(folder: Path, answer: Callable[[Path, Files], Answer] = with_ranges) -> Iterator[Web]:
    with Web(folder, answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def put(port: int, path: str, content: bytes) -> None:
    """Put an object into moto's S3, which does not check signatures."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/{path}", content, method="PUT")
    request.add_header("Authorization", "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/s3/aws4_request")
    request.add_header("Content-Type", "application/octet-stream")  # moto reads the default one as a form
    with urllib.request.urlopen(request, timeout=SECONDS):
        pass


def docker_login(folder: Path, port: int, user: str, password: str) -> None:
    folder.mkdir(exist_ok=True)
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    (folder / "config.json").write_text(f'{{"auths": {{"127.0.0.1:{port}": {{"auth": "{auth}"}}}}}}')


def embedship(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    """Start the embedship command in a process of its own."""
    home = {key: os.environ[key] for key in ("PATH",)}
    return subprocess.Popen(
        [str(Path(sys.executable).parent / "embedship"), *map(str, arguments)],
        env={**home, "HOME": "/nonexistent", "COLUMNS": "1000", **environment},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
