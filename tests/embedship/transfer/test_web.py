"""Redirects: followed to where something proves who answers, and nowhere else. TLS is real, and so are the servers."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from embedship.errors import UnsafeError
from embedship.transfer import web
from embedship.transfer.errors import TransferError
from embedship.transfer.registry import ImageReference, ImageRegistry
from embedship.transfer.web import HttpRequest, HttpSession, body, send


@contextmanager
def server(certificate: Path | None = None) -> Iterator[Any]:
    """Redirects to `target` if there is one, else answers; `asked` are the credentials that came."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            running.asked.append(self.headers["authorization"])
            self.send_response(302 if running.target else 200)
            if running.target:
                self.send_header("location", running.target)
            self.send_header("content-length", "2" if not running.target else "0")
            self.end_headers()
            if not running.target:
                self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            pass

    running: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.asked, running.target = [], None
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        running.socket = context.wrap_socket(running.socket, server_side=True)
    with running:
        Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    subprocess.run(
        f"openssl req -x509 -newkey rsa:2048 -nodes -keyout {path}.key -out {path} -days 2 -subj /CN=secure.example "
        "-addext subjectAltName=DNS:secure.example,DNS:other.example",
        shell=True, check=True, capture_output=True,
    )  # fmt: skip
    path.write_bytes(path.read_bytes() + Path(f"{path}.key").read_bytes())
    return path


@pytest.fixture
def session(certificate: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> HttpSession:
    """Names of other machines lead to this one; ~/.netrc holds a password for each."""
    import socket

    find = socket.getaddrinfo

    def found(host: Any, *rest: Any, **more: Any) -> Any:
        return find("127.0.0.1" if str(host).endswith(".example") else host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", found)
    (tmp_path / "netrc").write_text(
        "machine secure.example login u password p\nmachine other.example login u password p\n"
    )
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    return HttpSession()


def read(session: HttpSession, url: str) -> bytes:
    with send(session, HttpRequest("GET", url)) as answer:
        return b"".join(body(answer, 0))


def test_https_is_not_followed_to_http_and_no_password_goes_there(session: HttpSession, certificate: Path) -> None:
    """A proxy that ends TLS and redirects to http is a common mistake: its bundle.json would prove nothing."""
    with server(certificate) as secure, server() as plain:
        secure.target = f"http://secure.example:{plain.server_port}/bundle.json"
        with pytest.raises(TransferError, match="redirects away from TLS"):
            read(session, f"https://secure.example:{secure.server_port}/bundle.json")
        secure.target = f"http://127.0.0.1:{plain.server_port}/bundle.json"
        with pytest.raises(TransferError, match="redirects away from TLS"):
            read(session, f"https://secure.example:{secure.server_port}/bundle.json")
    assert secure.asked == ["Basic dTpw"] * 2
    assert plain.asked == []


def test_https_is_followed_to_https(session: HttpSession, certificate: Path) -> None:
    with server(certificate) as one, server(certificate) as other:
        one.target = f"https://other.example:{other.server_port}/x"
        assert read(session, f"https://secure.example:{one.server_port}/x") == b"{}"


def test_loopback_is_followed_to_loopback_only(session: HttpSession) -> None:
    with ExitStack() as stack:
        one, other = stack.enter_context(server()), stack.enter_context(server())
        one.target = f"http://localhost:{other.server_port}/x"
        assert read(session, f"http://127.0.0.1:{one.server_port}/x") == b"{}"
        one.target = f"http://other.example:{other.server_port}/x"
        with pytest.raises(TransferError, match="redirects away"):
            read(session, f"http://127.0.0.1:{one.server_port}/x")
        assert len(other.asked) == 1


@pytest.mark.parametrize("digest", ["../../other/manifests/latest", "sha256:" + "0" * 63, "sha256:" + "G" * 64, ""])
def test_a_digest_that_is_none_does_not_become_a_path(digest: str) -> None:
    """It would be asked for with our credentials."""
    with server() as registry:
        source = ImageRegistry(ImageReference.parse(f"127.0.0.1:{registry.server_port}/team/model:v1"))
        with pytest.raises(UnsafeError, match="no sha256 digest"):
            next(source.blob(digest, 0))
    assert registry.asked == []


def test_the_rule_of_redirects() -> None:
    assert not web._downgrades("http://plain.example/", "http://other.example/"), "a digest pins what lies there"
