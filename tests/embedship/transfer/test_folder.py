"""The hub's layout, imitated: there is no hub to ask here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from embedship.errors import UsageError
from embedship.transfer.address import TrustOptions, open_source
from embedship.transfer.errors import TransferError
from embedship.transfer.folder import HubFolder

from . import servers
from .servers import Answer, Files

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def large(tmp_path: Path) -> Iterator[Any]:
    """Where large files lie: another host, which must not see the token."""
    (tmp_path / "large").mkdir()
    (tmp_path / "large" / "weights").write_bytes(b"0123456789")
    with servers.web(tmp_path / "large") as server:
        yield server


@pytest.fixture
def hub(large: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    def answer(path: Path, request: Files) -> Answer:
        headers = {"X-Repo-Commit": COMMIT}
        if request.headers["Authorization"] != "Bearer hidden":
            return 401, {}, b""
        if path.name == "weights":  # another name for this machine, as far as cookies and tokens are concerned
            return 302, {**headers, "Location": f"http://localhost:{large.port}/weights"}, b""
        return 200, headers, b"{}"

    with servers.web(tmp_path, answer) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.port}")
        monkeypatch.setenv("HF_TOKEN", "hidden")
        yield server


def test_a_branch_is_read_from_one_commit(hub: Any, large: Any) -> None:
    source = HubFolder("team/model@main")
    assert b"".join(source.read("bundle.json", 0)) == b"{}"
    assert source.pinned == f"hf://team/model@{COMMIT}"
    assert b"".join(source.read("weights", 4)) == b"456789"
    assert [each.path for each in hub.asked] == [
        "/team/model/resolve/main/bundle.json",
        f"/team/model/resolve/{COMMIT}/weights",
    ]
    assert [(each.range, each.authorization) for each in large.asked] == [("bytes=4-", None)]


def test_the_token_s_file_is_the_hub_s(hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    with pytest.raises(TransferError, match="401"):
        list(HubFolder("team/model@main").read("bundle.json", 0))
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "token").write_text("hidden\n")
    assert b"".join(HubFolder("team/model@main").read("bundle.json", 0)) == b"{}"


def test_a_mirror_without_tls_needs_a_digest_and_gets_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://mirror.example")
    monkeypatch.setenv("HF_TOKEN", "hidden")
    with pytest.raises(UsageError, match="give --digest"):
        open_source("hf://team/model@main", TrustOptions(None, False))
    source = open_source("hf://team/model@main", TrustOptions("sha256:" + "0" * 64, False))
    assert isinstance(source, HubFolder)
    assert source._auth is None


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_s3_without_tls_needs_a_digest(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "http://minio.example")
    with pytest.raises(UsageError, match="give --digest"):
        open_source("s3://models/minilm", TrustOptions(None, False))
    assert open_source("s3://models/minilm", TrustOptions("sha256:" + "0" * 64, False)).pinned == "s3://models/minilm"
    monkeypatch.setenv(name, "https://minio.example")
    open_source("s3://models/minilm", TrustOptions(None, False))
