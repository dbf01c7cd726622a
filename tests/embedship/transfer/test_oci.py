"""Push and pull against Debian's docker-registry: credentials, tokens, and another client's view of it."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests

from embedship.bundle import MANIFEST, Bundle
from embedship.bundle.signing import BundleSigner
from embedship.commands import main
from embedship.transfer import oci
from embedship.transfer.errors import TransferError
from embedship.transfer.registry import ImageReference, ImageRegistry, digest_of
from embedship.transfer.retry import RetryPolicy

from . import servers
from .servers import Served, docker_login

Command = Callable[..., dict[str, Any]]
USER, PASSWORD = "ship", "hidden word"
HASHED = "$2b$04$NQjd8vhy0yuqGCrchV0tB.ov3r90TfChltmucHFzrLcy/jxW5ONpW"  # by bcrypt


@pytest.fixture(scope="module")
def registry(docker_registry: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with servers.registry(docker_registry, tmp_path_factory.mktemp("registry")) as served:
        yield served


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """The answer with --json, nobody logged in but through `config`; never with the password in it."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "config"))

    def call(*arguments: object) -> dict[str, Any]:
        code = main.run([*map(str, arguments), "--json", "--retries", "2"])
        said = capsys.readouterr()
        assert "hidden" not in said.out + said.err
        return {**json.loads(said.out), "code": code}

    return call


def test_a_tag_is_resolved_and_pinned(registry: Served, command: Command, small: Bundle, tmp_path: Path) -> None:
    address = f"oci://127.0.0.1:{registry.port}/team/small"
    pushed = command("push", small.folder, f"{address}:v1")
    assert pushed["digest"] == digest_of(small.path(MANIFEST).read_bytes())
    pulled = command("pull", f"{address}:v1", "--out", tmp_path / "a")
    assert pulled["source"] == pushed["source"]
    assert pulled["source"].startswith(f"{address}@sha256:")
    again = command("pull", pushed["source"], "--out", tmp_path / "b", "--digest", pushed["digest"])
    assert (again["code"], again["fingerprint"]) == (0, small.fingerprint)


def test_pushed_twice_it_is_sent_once(registry: Served, small: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    upload = ImageRegistry.upload

    def counted(self: ImageRegistry, digest: str, path: Path) -> None:
        sent.append(digest)
        upload(self, digest, path)

    monkeypatch.setattr(ImageRegistry, "upload", counted)
    address = f"127.0.0.1:{registry.port}/once/small:v1"
    first = oci.push(small, address, False, RetryPolicy(1), lambda name, size: None)
    assert len(sent) == len({file.sha256 for file in small.manifest.files.values()}) + 2, "bundle.json and {}"
    assert oci.push(small, address, False, RetryPolicy(1), lambda name, size: None) == first
    assert len(sent) == len(set(sent))


def test_a_damaged_bundle_is_not_pushed(registry: Served, command: Command, small: Bundle, tmp_path: Path) -> None:
    for name in (MANIFEST, *small.manifest.files):
        (tmp_path / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "copy" / name).hardlink_to(small.path(name))
    (tmp_path / "copy" / "stranger").touch()
    assert command("push", tmp_path / "copy", f"oci://127.0.0.1:{registry.port}/bad/small:v1")["code"] == 4
    assert command("pull", f"oci://127.0.0.1:{registry.port}/bad/small:v1", "--out", tmp_path / "x")["code"] == 1


def test_the_signature_travels_and_is_checked(
    registry: Served, command: Command, small: Bundle, tmp_path: Path
) -> None:
    _copy(small, tmp_path / "signed")
    private, key = _pair(tmp_path, "key")
    address = f"oci://127.0.0.1:{registry.port}/signed/small:v1"
    assert command("push", tmp_path / "signed", address)["code"] == 0
    unsigned = command("pull", address, "--out", tmp_path / "a", "--key", key)
    assert (unsigned["code"], (tmp_path / "a").exists()) == (4, False)
    BundleSigner.open(private).sign(Bundle.open(tmp_path / "signed"))
    assert command("pull", address, "--out", tmp_path / "early")["code"] == 0
    assert command("push", tmp_path / "signed", address)["code"] == 0
    for folder in ("a", "early"):  # of both, all the rest was there
        pulled = command("pull", address, "--out", tmp_path / folder, "--key", key)
        assert (pulled["code"], pulled["fetched_bytes"]) == (0, 0)
        assert (tmp_path / folder / "model.sig").is_file()
    (tmp_path / "a" / "model.sig").write_text("{}")
    mended = command("pull", address, "--out", tmp_path / "a", "--key", key)
    assert (mended["code"], mended["fetched_bytes"]) == (0, 0), "of a good bundle only the signature is fetched"


def test_a_wrong_signature_is_not_taken(registry: Served, command: Command, small: Bundle, tmp_path: Path) -> None:
    """Neither beside a good bundle nor in the place of another signature, and nothing is left to be tripped over."""
    signed = _copy(small, tmp_path / "signed")
    (private, ours), (_, theirs) = _pair(tmp_path, "ours"), _pair(tmp_path, "theirs")
    address = f"oci://127.0.0.1:{registry.port}/wrongly/small:v1"
    assert command("push", signed, address)["code"] == 0
    assert command("pull", address, "--out", tmp_path / "a")["code"] == 0
    BundleSigner.open(private).sign(Bundle.open(signed))
    assert command("push", signed, address)["code"] == 0
    assert command("pull", address, "--out", tmp_path / "a", "--key", theirs)["code"] == 4
    assert not (tmp_path / "a" / "model.sig").exists()
    assert command("pull", address, "--out", tmp_path / "a", "--key", ours)["code"] == 0
    (tmp_path / "a" / "model.sig").write_text("before")
    assert command("pull", address, "--out", tmp_path / "a", "--key", theirs)["code"] == 4
    assert (tmp_path / "a" / "model.sig").read_text() == "before"


def _copy(small: Bundle, folder: Path) -> Path:
    for name in (MANIFEST, *small.manifest.files):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).hardlink_to(small.path(name))
    return folder


def _pair(folder: Path, name: str) -> tuple[Path, Path]:
    """A private key and its public half."""
    private, public = folder / f"{name}.pem", folder / f"{name}-public.pem"
    for line in (
        f"openssl ecparam -name prime256v1 -genkey -noout -out {private}",
        f"openssl ec -in {private} -pubout -out {public}",
    ):
        subprocess.run(line.split(), check=True, capture_output=True)
    return private, public


def test_the_oras_client_takes_what_we_push(registry: Served, command: Command, small: Bundle, tmp_path: Path) -> None:
    """And not the other way round: oras-py 0.2.43 names a file without its folder, and two of ours are config.json."""
    from oras.client import OrasClient

    name = f"127.0.0.1:{registry.port}/interop/small:v1"
    command("push", small.folder, f"oci://{name}")
    OrasClient(insecure=True).pull(target=name, outdir=str(tmp_path / "theirs"))
    assert Bundle.open(tmp_path / "theirs").verify() == len(small.manifest.files)


def test_another_manifest_than_asked_for_is_refused(
    registry: Served, command: Command, small: Bundle, tmp_path: Path
) -> None:
    pushed = command("push", small.folder, f"oci://127.0.0.1:{registry.port}/forged/small:v1")
    digest = pushed["source"].partition("@sha256:")[2]
    data = registry.folder / "docker/registry/v2/blobs/sha256" / digest[:2] / digest / "data"
    forged = data.read_bytes().replace(b'"size":2}', b'"size": 2}')
    data.write_bytes(forged)
    assert command("pull", pushed["source"], "--out", tmp_path / "a")["code"] in (1, 4)
    reference = ImageReference.parse(pushed["source"].partition("://")[2])
    with servers.web(tmp_path, lambda path, request: (200, {}, forged)) as liar:
        address = f"oci://127.0.0.1:{liar.port}/{reference.repository}@{reference.digest}"
        answer = command("pull", address, "--out", tmp_path / "a")
    assert (answer["code"], "gave another manifest" in answer["error"]) == (4, True)


def test_another_bundle_json_than_its_layer_is_refused(command: Command, small: Bundle, tmp_path: Path) -> None:
    """A digest pins all of the artifact: this registry's manifest is right, and its bundle.json another valid one."""
    files = oci._files(small)
    manifest = oci._manifest(small, files)
    blobs = {f"sha256:{file.sha256}": small.path(name).read_bytes() for name, file in files.items()}
    given = {**blobs, digest_of(manifest): manifest}
    address = f"a/b@{digest_of(manifest)}"
    with servers.web(tmp_path, lambda path, request: (200, {}, given[path.name])) as honest:
        assert command("pull", f"oci://127.0.0.1:{honest.port}/{address}", "--out", tmp_path / "right")["code"] == 0
    raw, created = small.path(MANIFEST).read_bytes(), small.manifest.created.encode()
    given[digest_of(raw)] = raw.replace(created, b"2001-01-01T00:00:00Z")
    assert given[digest_of(raw)] != raw
    with servers.web(tmp_path, lambda path, request: (200, {}, given[path.name])) as liar:
        answer = command("pull", f"oci://127.0.0.1:{liar.port}/{address}", "--out", tmp_path / "a")
    assert (answer["code"], "gave another bundle.json" in answer["error"]) == (4, True), answer
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(("manifest", "code"), [
    (b"[]", 2), (b'{"layers": 1}', 2), (b'{"manifests": []}', 2), (b"\xff", 2),
    (b'{"layers": [{"digest": "sha256:0", "size": 1}, {"digest": "sha256:0", "size": 1}]}', 4),
    (b'{"layers": []}', 1), (b" " * (4 << 20) + b" ", 4),
])  # fmt: skip
def test_what_is_no_bundle_is_a_sentence(command: Command, tmp_path: Path, manifest: bytes, code: int) -> None:
    with servers.web(tmp_path, lambda path, request: (200, {}, manifest)) as server:
        answer = command("pull", f"oci://127.0.0.1:{server.port}/a/b:v1", "--out", tmp_path / "a")
    assert answer["code"] == code, answer
    assert not (tmp_path / "a").exists()


@pytest.fixture
def guarded(docker_registry: Path, tmp_path: Path) -> Iterator[Served]:
    """It wants a user and a password."""
    known = tmp_path / "htpasswd"
    known.write_text(f"{USER}:{HASHED}\n")
    auth = f"auth: {{htpasswd: {{realm: ours, path: {known}}}}}\n"
    with servers.registry(docker_registry, tmp_path / "guarded", auth) as served:
        yield served


def round_trip(command: Command, port: int, small: Bundle, tmp_path: Path) -> tuple[int, int]:
    address = f"oci://127.0.0.1:{port}/team/small:v1"
    pushed = command("push", small.folder, address)
    return pushed["code"], command("pull", address, "--out", tmp_path / "pulled")["code"]


def test_a_password_is_docker_s(guarded: Served, command: Command, small: Bundle, tmp_path: Path) -> None:
    assert round_trip(command, guarded.port, small, tmp_path) == (1, 1)
    docker_login(tmp_path / "config", guarded.port, USER, "wrong hidden word")
    assert round_trip(command, guarded.port, small, tmp_path) == (1, 1)
    docker_login(tmp_path / "config", guarded.port, USER, PASSWORD)
    assert round_trip(command, guarded.port, small, tmp_path) == (0, 0)


@contextmanager
def behind_tokens(port: int) -> Iterator[tuple[int, list[str]]]:
    """In front of a registry: it wants a token for each scope, as hubs do, and a token is good for three requests."""
    given: list[str] = []
    good: dict[str, int] = {}

    class Front(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: Any) -> None:
            pass

        def do_GET(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"] or 0))
            if self.path.startswith("/token"):
                return self._token()
            token = (self.headers["Authorization"] or "").removeprefix("Bearer ")
            if good.get(token, 0) < 1:
                scope = "pull" if self.command in ("GET", "HEAD") else "pull,push"
                realm = f"http://127.0.0.1:{self.server.server_address[1]}/token"
                wanted = f'Bearer realm="{realm}",service="ours",scope="repository:team/small:{scope}"'
                return self._say(401, {"WWW-Authenticate": wanted}, b"")
            good[token] -= 1
            return self._forward(content)

        do_HEAD = do_POST = do_PUT = do_GET

        def _token(self) -> None:
            if self.headers["Authorization"] != "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode():
                return self._say(401, {}, b"")
            given.append(self.path)
            good[f"hidden{len(given)}"] = 3
            return self._say(200, {}, json.dumps({"token": f"hidden{len(given)}"}).encode())

        def _forward(self, content: bytes) -> None:
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}{self.path}", content or None, method=self.command
            )
            for key in ("Accept", "Content-Type", "Range", "Host"):
                if self.headers[key]:
                    request.add_header(key, self.headers[key])
            if self.command in ("POST", "PUT"):
                request.add_header("Content-Length", str(len(content)))
            try:
                with urllib.request.urlopen(request, timeout=servers.SECONDS) as answer:
                    self._say(answer.status, dict(answer.headers), answer.read())
            except urllib.error.HTTPError as error:
                with error:
                    self._say(error.code, {}, error.read())

        def _say(self, status: int, headers: dict[str, str], content: bytes) -> None:
            self.send_response(status)
            for key, value in headers.items():
                if key in ("Location", "Content-Type", "Content-Range", "WWW-Authenticate"):
                    self.send_header(key, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content if self.command != "HEAD" else b"")

    with ThreadingHTTPServer(("127.0.0.1", 0), Front) as front:
        thread = threading.Thread(target=front.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield int(front.server_address[1]), given
        finally:
            front.shutdown()
            thread.join()


def test_tokens_are_renewed(registry: Served, command: Command, small: Bundle, tmp_path: Path) -> None:
    with behind_tokens(registry.port) as (port, given):
        assert round_trip(command, port, small, tmp_path) == (1, 1)
        docker_login(tmp_path / "config", port, USER, PASSWORD)
        assert round_trip(command, port, small, tmp_path) == (0, 0)
    assert len(given) > 10, "each good for three requests"
    assert any("pull%2Cpush" in path for path in given)


@pytest.mark.parametrize("elsewhere", ["http://registry.example/v2/up", "https://other.example/v2/up"])
def test_an_upload_does_not_lead_away(small: Bundle, monkeypatch: pytest.MonkeyPatch, elsewhere: str) -> None:
    asked = []

    def send(session: requests.Session, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        asked.append(request.url)
        answer = requests.Response()
        answer.status_code, answer.url, answer.raw = 202, str(request.url), io.BytesIO()
        answer.headers["Location"] = elsewhere
        return answer

    monkeypatch.setattr(requests.Session, "send", send)
    with pytest.raises(TransferError, match="away from TLS"):
        ImageRegistry(ImageReference.parse("registry.example/team/small:v1")).upload("sha256:0", small.path(MANIFEST))
    assert asked == ["https://registry.example/v2/team/small/blobs/uploads/"]


def test_a_password_does_not_leave_in_the_clear() -> None:
    registry = ImageRegistry(ImageReference.parse("registry.example/team/small:v1"))
    with pytest.raises(Exception, match="without encryption"):
        registry._challenged('Bearer realm="http://elsewhere.example/token",service="x"')
