"""One file of a bucket, read as Python reads files, and encoded from there."""

from __future__ import annotations

import json
from io import SEEK_END, BufferedReader
from pathlib import Path

import pytest

from embedship import stdlib_docs
from embedship.commands.main import run
from embedship.errors import EmbedshipError, UsageError
from embedship.transfer.s3 import S3Object

from . import servers

TEXTS = [entry.summary for entry in stdlib_docs.entries(40)]


@pytest.fixture
def bucket(moto: int, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "hidden"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ENDPOINT_URL", f"http://127.0.0.1:{moto}"),
    ):
        monkeypatch.setenv(name, value)
    servers.put(moto, "texts", b"")
    return "texts"


def test_a_file_of_several_pieces_is_read_from_anywhere(moto: int, bucket: str) -> None:
    content = b"".join(b"%07d\n" % number for number in range(400_000))  # of 3.2 MB
    servers.put(moto, f"{bucket}/in.txt", content)
    found = S3Object(f"{bucket}/in.txt")
    assert found.stamp()[0] == len(content)
    with BufferedReader(found.open()) as file:
        assert b"".join(file) == content
        file.seek(8 * 123_456)
        assert file.readline() == b"0123456\n"
        file.seek(-8, SEEK_END)
        assert (file.tell(), file.read()) == (len(content) - 8, b"0399999\n")


def test_the_stamp_tells_of_other_content_of_the_same_size(moto: int, bucket: str) -> None:
    servers.put(moto, f"{bucket}/in.txt", b"one")
    before = S3Object(f"{bucket}/in.txt").stamp()
    servers.put(moto, f"{bucket}/in.txt", b"two")
    assert S3Object(f"{bucket}/in.txt").stamp() != before


@pytest.mark.parametrize("address", ["texts", "texts/", "texts/folder/", "B/x"])
def test_what_names_no_file_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="s3://BUCKET/KEY"):
        S3Object(address)


def test_a_file_there_is_not_is_a_sentence(bucket: str) -> None:
    with pytest.raises(UsageError, match=r"s3://texts/none\.jsonl is no file that these credentials see"):
        S3Object(f"{bucket}/none.jsonl").stamp()


def test_a_server_there_is_not_is_a_sentence(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(EmbedshipError, match="cannot be reached, or failed"):
        S3Object(f"{bucket}/in.jsonl").stamp()


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_texts_are_encoded_from_there_as_from_a_file(
    bundle: Path, moto: int, bucket: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    local = tmp_path / f"in.{kind}"
    if kind == "jsonl":
        local.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    else:
        pyarrow = pytest.importorskip("pyarrow", reason="needs the extra [parquet]")
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table({"text": TEXTS}), local)
    servers.put(moto, f"{bucket}/deep/in.{kind}", local.read_bytes())
    for source, out in ((str(local), "local"), (f"s3://{bucket}/deep/in.{kind}", "s3")):
        assert run(["encode", str(bundle), source, "--out", str(tmp_path / out), "--variant", "openvino-int8"]) == 0
    files = [{path.name: path.read_bytes() for path in (tmp_path / out).iterdir()} for out in ("local", "s3")]
    assert files[0] == files[1]
    assert "40 texts" in capsys.readouterr().out
