"""A server that goes away, hangs and comes back, behind a proxy that cuts."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from milvus_lite.adapter.grpc.servicer import MilvusServicer
from milvus_lite.db import MilvusLite
from pymilvus.grpc_gen import milvus_pb2_grpc

from embedship.errors import MissingExtra, UsageError
from embedship.serve.milvus.connection import PAUSE_SECONDS, TOKEN, MilvusConnection
from embedship.serve.search.address import Address
from embedship.serve.search.backend import BackendRejected, BackendUnavailable

from ...embedship.transfer.wire import Wire

SECONDS = 5.0


@pytest.fixture
def wire(port: int) -> Iterator[Wire]:
    with Wire(port) as wire:
        yield wire


@pytest.fixture
def line(wire: Wire) -> Iterator[MilvusConnection]:
    line = MilvusConnection.open(Address(f"http://127.0.0.1:{wire.port}", "any"), SECONDS)
    yield line
    line.close()


def seconds_of(line: MilvusConnection) -> float:
    """What it takes to be told that the server is away."""
    began = time.monotonic()
    with pytest.raises(BackendUnavailable, match=r"milvus://127.* does not answer: see that it runs"):
        line.call("list_collections")
    return time.monotonic() - began


def recovered(line: MilvusConnection) -> Any:
    """Asked like a client that comes again."""
    end = time.monotonic() + 20
    while True:
        try:
            return line.call("list_collections")
        except BackendUnavailable:
            assert time.monotonic() < end, "it did not come back"
            threading.Event().wait(0.05)


def test_a_server_that_is_cut_off_and_comes_back(line: MilvusConnection, wire: Wire) -> None:
    known = line.call("list_collections")
    wire.sever()
    assert seconds_of(line) < 2 * SECONDS
    assert max(seconds_of(line) for _ in range(5)) < 0.1 * SECONDS
    wire.mend()
    assert recovered(line) == known


def test_of_a_server_that_hangs_one_call_waits_and_the_others_fail_at_once(line: MilvusConnection, wire: Wire) -> None:
    wire.cut_after(0, hold=True)
    assert SECONDS * 0.9 < seconds_of(line) < 4 * SECONDS
    assert max(seconds_of(line) for _ in range(5)) < 0.1 * SECONDS
    threading.Event().wait(PAUSE_SECONDS)
    probing = threading.Thread(target=seconds_of, args=(line,))
    probing.start()
    while not line._probing:
        assert probing.is_alive(), "it was over before anybody saw it"
        threading.Event().wait(0.01)
    assert seconds_of(line) < 0.1 * SECONDS
    probing.join()
    wire.mend()
    recovered(line)


def test_a_refusal_is_an_answer(line: MilvusConnection) -> None:
    with pytest.raises(BackendRejected, match=r"does not do what it is asked: .*'none'"):
        line.call("describe_collection", "none")
    assert line.call("list_collections") is not None


def test_a_server_that_is_not_there(wire: Wire) -> None:
    wire.sever()
    with pytest.raises(BackendUnavailable, match="does not answer"):
        MilvusConnection.open(Address(f"http://127.0.0.1:{wire.port}", "any"), SECONDS)


class Guard(grpc.ServerInterceptor):  # type: ignore[misc]
    """Milvus' own way of asking for a token, which Milvus Lite has not."""

    def intercept_service(self, proceed: Any, details: Any) -> Any:
        given = dict(details.invocation_metadata).get("authorization")
        if given == base64.b64encode(b"me:sesame").decode():
            return proceed(details)

        def refuse(request: Any, context: Any) -> None:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "auth check failure")

        return grpc.unary_unary_rpc_method_handler(refuse)


@contextmanager
def guarded(folder: Path, tls: grpc.ServerCredentials | None = None) -> Iterator[int]:
    """The port of a server of this process, which asks for a token, or speaks TLS."""
    server = grpc.server(ThreadPoolExecutor(2), interceptors=() if tls else (Guard(),))
    port = server.add_secure_port("127.0.0.1:0", tls) if tls else server.add_insecure_port("127.0.0.1:0")
    with closing(MilvusLite(str(folder))) as database:
        milvus_pb2_grpc.add_MilvusServiceServicer_to_server(MilvusServicer(database), server)
        server.start()
        try:
            yield port
        finally:
            server.stop(0).wait()


def test_a_server_that_asks_for_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with guarded(tmp_path / "data") as port:
        address = Address(f"http://127.0.0.1:{port}", "any")
        for token in ("", "me:guess"):
            monkeypatch.setenv(TOKEN, token)
            with pytest.raises(UsageError, match="without the right token: put it in EMBEDSHIP_MILVUS_TOKEN"):
                MilvusConnection.open(address, 5)
        monkeypatch.setenv(TOKEN, "me:sesame")
        with closing(MilvusConnection.open(address, 5)) as line:
            assert line.call("list_collections") == []


def test_a_server_that_speaks_tls(bundle: Path, tmp_path: Path) -> None:
    """It is reached with its certificate, and not without: then nobody knows whose answer it would be."""
    key, certificate = certified()
    (tmp_path / "roots.pem").write_bytes(certificate)
    with guarded(tmp_path / "data", grpc.ssl_server_credentials([(key, certificate)])) as port:
        address = f"milvus+tls://127.0.0.1:{port}/faq"
        trusting = updated(address, bundle, tmp_path, GRPC_DEFAULT_SSL_ROOTS_FILE_PATH=str(tmp_path / "roots.pem"))
        assert (trusting.returncode, f"there is no {address}" in trusting.stderr) == (2, True), trusting.stderr
        wary = updated(address, bundle, tmp_path)
        assert (wary.returncode, f"{address} does not answer" in wary.stderr) == (1, True), wary.stderr


def certified() -> tuple[bytes, bytes]:
    """A key, and its certificate for 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "milvus")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return secret, certificate.public_bytes(pem)


def updated(address: str, bundle: Path, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`embedship index update`, in a process of its own."""
    (folder / "changes.jsonl").write_text('{"id": "a", "text": "b"}')
    command = ["index", "update", address, str(folder / "changes.jsonl"), "--bundle", str(bundle)]
    return subprocess.run(
        [sys.executable, "-P", "-m", "embedship", *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "COLUMNS": "1000", **environment},
    )


def test_without_the_extra(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "changes.jsonl").write_text('{"id": "a", "text": "b"}')
    command = ["index", "update", "milvus://127.0.0.1:1/a", str(tmp_path / "changes.jsonl"), "--bundle", str(bundle)]
    code = (
        f"import sys; sys.modules['pymilvus'] = None\nfrom embedship.commands.main import run; sys.exit(run({command}))"
    )
    environment = {**os.environ, "COLUMNS": "1000"}
    ended = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False, env=environment
    )
    assert (ended.returncode, ended.stderr) == (2, f"error: {MissingExtra('pymilvus', 'milvus')}\n")
