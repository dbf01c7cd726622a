"""Encoding on a cluster: the folder is the one of a run without Ray, byte for byte, whatever happens to nodes."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from embedship import Bundle, Encoder, stdlib_docs
from embedship.commands.main import run
from embedship.errors import UsageError
from embedship.serve.bulk import run as bulk_run
from embedship.serve.bulk.formats import OutputFormat
from embedship.serve.bulk.manifest import EncodeOptions
from embedship.serve.bulk.ray_session import ray_session
from embedship.serve.bulk.shards import LocalEncoderPool
from embedship.serve.bulk.source import InputColumns, open_source
from embedship.serve.progress import ProgressCounter

from .conftest import SECONDS, Nodes, Start, addresses, given

TEXTS = 1440  # so that a run goes on for a while after its first shards
SHARD = 12
SMALL = ("--shard-texts", SHARD, "--format", "parquet", "--code", "float16", "--json")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ray") / "in.jsonl"
    bodies = [entry.body for entry in stdlib_docs.entries(TEXTS)]
    path.write_text("".join(json.dumps({"id": f"doc-{i}", "text": text}) + "\n" for i, text in enumerate(bodies)))
    return path


@pytest.fixture(scope="module")
def plain(bundle: Path, source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a run without Ray leaves."""
    pytest.importorskip("pyarrow", reason="needs the extra [parquet]")
    out, columns = tmp_path_factory.mktemp("plain") / "out", InputColumns("text", "id")
    options = EncodeOptions(layout=OutputFormat.PARQUET, code="float16", shard_texts=SHARD)
    with Encoder.open(bundle, "openvino-int8") as encoder:
        bulk_run.encode(
            LocalEncoderPool(encoder), open_source(source, columns), columns, out, options, ProgressCounter()
        )
    return contents(out)


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


def shards(out: Path) -> int:
    return len(list(out.glob("vectors-?????.json")))


def once(process: subprocess.Popen[str], out: Path, count: int) -> None:
    """So many shards are done, and the run goes on."""
    until = time.monotonic() + SECONDS
    while shards(out) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    said, complained = process.communicate(timeout=SECONDS)
    return process.returncode, said, " ".join(complained.split())


def test_whichever_nodes_are_lost_nothing_is_missing_or_twice(
    nodes: Nodes, start: Start, source: Path, plain: dict[str, bytes], tmp_path: Path
) -> None:
    """The first run is killed; in the second one node is lost, then the other, and a new one comes."""
    out = tmp_path / "out"
    line = (source, "--out", out, "--ray", nodes.address, *SMALL)
    first = start(*line)
    once(first, out, 4)
    first.kill()
    first.communicate(timeout=SECONDS)
    done = shards(out)
    second = start(*line)
    once(second, out, done + 4)
    nodes.ask("lose")
    once(second, out, shards(out) + 4)  # by the other node
    nodes.ask("lose")
    nodes.ask("add")
    code, said, complained = ended(second)
    assert code == 0, complained
    assert "2 devices of 2 nodes" in complained
    assert "(raylet)" not in complained
    assert len(re.findall(r"lost the encoder on node \S+", complained)) == 2
    report = json.loads(said)
    assert 4 * SHARD <= report["resumed_texts"] == done * SHARD < report["texts"] == TEXTS
    assert contents(out) == plain
    assert sum(name.startswith("vectors-") for name in plain) == TEXTS // SHARD


def test_an_index_is_the_one_that_was_embedded_here(
    nodes: Nodes, start: Start, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(source.read_text().splitlines(keepends=True)[:40]))
    here = start(corpus, "--out", tmp_path / "here", verb="index")
    there = start(corpus, "--out", tmp_path / "there", "--ray", nodes.address, "--json", verb="index")
    assert ended(here)[0] == 0
    code, said, complained = ended(there)
    assert (code, json.loads(said)["documents"]) == (0, 40), complained
    assert contents(tmp_path / "there") == contents(tmp_path / "here")


def test_a_cluster_without_the_device_is_a_sentence(nodes: Nodes, start: Start, source: Path, tmp_path: Path) -> None:
    process = start(source, "--out", tmp_path / "out", "--ray", nodes.address, "--device", "cuda")
    code, _, complained = ended(process)
    assert (code, "no node of this Ray cluster has GPUs" in complained, "Traceback" in complained) == (2, True, False)


def test_interrupted_it_ends_the_cluster_that_it_started(start: Start, source: Path, tmp_path: Path) -> None:
    """It listens on the loopback interface alone; `start` sees that no process is left."""
    pytest.importorskip("ray", reason="needs the extra [ray]")
    out = tmp_path / "out"
    long = tmp_path / "long.jsonl"  # no machine is through with it before it is interrupted
    rows = [json.loads(line)["text"] for line in source.read_text().splitlines()]
    long.write_text(
        "".join(json.dumps({"id": str(i), "text": rows[i % len(rows)]}) + "\n" for i in range(17 * len(rows)))
    )
    process = start(long, "--out", out, "--ray", "local", *SMALL)
    once(process, out, 2)
    assert addresses(process) == {"127.0.0.1"}
    (token,) = given(process, "RAY_AUTH_TOKEN")
    assert given(process, "RAY_AUTH_MODE") == {"token"}, "another user cannot join, and run code as this one"
    assert len(token) == 64
    process.send_signal(signal.SIGINT)
    code, said, complained = ended(process)
    assert (code, json.loads(said)["exit_code"]) == (130, 130), complained
    assert "Traceback" not in complained
    assert shards(out) >= 2


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("127.0.0.1:1", "no connection to 127.0.0.1:1"),
        ("somewhere", "give HOST:PORT of the head node, auto or local"),
        ("127.0.0.1:99999999", "no connection to 127.0.0.1:99999999"),
    ],
)
def test_a_wrong_address_is_a_sentence(
    bundle: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], address: str, sentence: str
) -> None:
    pytest.importorskip("ray", reason="needs the extra [ray]")
    assert run(["encode", str(bundle), str(source), "--out", str(tmp_path / "out"), "--ray", address]) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_one_of_several_devices_cannot_be_asked_for(bundle: Path) -> None:
    with (
        pytest.raises(UsageError, match="leave the number out"),
        ray_session("local", Bundle.open(bundle), "onnx", "cuda:1"),
    ):
        pass


def test_without_ray_the_extra_is_named(
    bundle: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "embedship.serve.bulk.ray_cluster", raising=False)
    monkeypatch.delattr("embedship.serve.bulk.ray_cluster", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    assert run(["encode", str(bundle), str(source), "--out", str(tmp_path / "out"), "--ray", "auto"]) == 2
    assert "pip install -c constraints.txt '.[ray]'" in " ".join(capsys.readouterr().err.split())
