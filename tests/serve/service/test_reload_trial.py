"""Bundles and indexes are opened in a process of their own before a running server opens them."""

from __future__ import annotations

import os
import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import msgspec
import onnx
import pytest
from onnx import TensorProto, helper

from embedship.bundle import Bundle, Runtime, Task
from embedship.errors import UnsafeError
from embedship.serve.devices import process
from embedship.serve.service import reload_trial
from embedship.serve.service.reload_trial import BundleTrial, IndexTrial, Trial
from embedship.serve.settings import Settings

from ... import tiny
from ..conftest import launched

KEY = "an-admin-key-of-the-tests"

# Integer division overflows here, and the CPU raises an exception that ends the process.
traps = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="only x86 traps this division")


def trial(*folders: BundleTrial | IndexTrial) -> Trial:
    return Trial(folders, None, 1_536, 10.0)


@pytest.fixture(scope="module")
def small(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bundle/ and index/ of a few kilobytes."""
    folder = tmp_path_factory.mktemp("small")
    tiny.write_index(folder / "index", tiny.write_bundle(folder / "bundle", Bundle.open(bundle).manifest))
    return folder


@pytest.fixture(params=[Runtime.ONNXRUNTIME, Runtime.OPENVINO])
def hostile(small: Path, tmp_path: Path, request: Any) -> Path:
    """A bundle whose hashes are right, and whose graph ends the process that loads it.

    Both runtimes compute constants while they load a graph, here -2**63 / -1. Neither can represent the quotient.
    """
    manifest = Bundle.open(small / "bundle").manifest
    folder = tmp_path / "hostile"
    for name in manifest.files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((small / "bundle" / name).read_bytes())
    (variant,) = manifest.variants
    values = {"lowest": -(2**63), "zero": 0, "one": 1}
    minus = helper.make_node("Sub", ["zero", "one"], ["minus"])
    graph = helper.make_graph(
        [minus, helper.make_node("Div", ["lowest", "minus"], ["sentence_embedding"])],
        "hostile",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "s"]) for name in manifest.pipeline.inputs],
        [helper.make_tensor_value_info("sentence_embedding", TensorProto.INT64, [1])],
        [helper.make_tensor(name, TensorProto.INT64, [1], [value]) for name, value in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(folder / variant.path))
    changed = msgspec.structs.replace(variant, runtime=request.param)
    Bundle.write(folder, msgspec.structs.replace(manifest, variants=(changed,)))
    return folder


def test_folders_that_can_be_opened_are_let_through(small: Path) -> None:
    bundle, index = str(small / "bundle"), str(small / "index")
    reload_trial.require_openable(trial(BundleTrial(bundle, Task.EMBED, None, "cpu", 1), IndexTrial(index, bundle)))


def test_what_it_only_rejects_is_the_server_s_to_explain(small: Path, tmp_path: Path) -> None:
    reload_trial.require_openable(trial(BundleTrial(str(tmp_path), Task.EMBED, None, "cpu", 1)))
    reload_trial.require_openable(trial(IndexTrial(str(tmp_path), str(small / "bundle"))))


@traps
def test_a_running_server_survives_a_graph_that_ends_the_process_that_loads_it(small: Path, hostile: Path) -> None:
    keys = hostile.parent / "keys"
    keys.write_text(KEY)
    options = ("--admin-key-file", str(keys), "--cache", str(hostile.parent / "cache"), "--streams", "1")
    with launched(str(small / "bundle"), *options) as live, httpx.Client(base_url=live.url, timeout=60) as client:
        headers = {"authorization": f"Bearer {KEY}"}
        answer = client.post("/admin/reload", json={"bundle": str(hostile)}, headers=headers)
        assert answer.status_code == 409
        assert f"{hostile} cannot be opened" in answer.json()["error"]
        assert "was killed by signal 8" in answer.json()["error"]
        assert client.post("/embed", json={"inputs": "w1 w2"}).status_code == 200
        assert live.process.poll() is None


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ('import os; os.write(1, b"next\\nnext\\n"); os.kill(os.getpid(), 11)', "second.* was killed by signal 11"),
        ('import os; os.write(1, b"next\\n"); os._exit(0)', "first.* ended with exit code 0"),
        ("import time; time.sleep(600)", "first.* did not end within 2 s"),
    ],
)
def test_what_ends_or_holds_the_process_is_refused(
    code: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the place of the child process a program that does what a broken file makes a parser do."""
    (tmp_path / "python").write_text(f"#!/bin/sh\nexec {reload_trial.sys.executable} -c '{code}'\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(reload_trial.sys, "executable", str(tmp_path / "python"))
    with pytest.raises(UnsafeError, match=sentence):
        reload_trial.require_openable(
            trial(IndexTrial("first", "bundle"), IndexTrial("second", "bundle")), seconds=2 if "sleep" in code else 60
        )


def test_everything_that_the_server_opens_is_tried_in_its_order(small: Path, bundle: Path, rerank_bundle: Path) -> None:
    settings = Settings(
        bundle=small / "bundle",
        reranker=rerank_bundle,
        index=small / "index",
        candidate_bundle=bundle,
        candidate_index=small / "candidate",
    )
    tried = [Path(folder.path) for folder in reload_trial.plan(settings).folders]
    assert tried == [small / "bundle", rerank_bundle, small / "index", bundle, small / "candidate"]
    known = frozenset({Bundle.open(small / "bundle").manifest.digest})
    tried = [Path(folder.path) for folder in reload_trial.plan(replace(settings, reranker=None), known).folders]
    assert tried == [small / "index", bundle, small / "candidate"]


def test_processes_of_ours_get_no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(process.subprocess, "Popen", lambda *_, env, **more: given.update(env))
    secrets = ("EMBEDSHIP_API_KEYS", "EMBEDSHIP_ADMIN_KEYS", "EMBEDSHIP_WRITE_KEYS", "EMBEDSHIP_MILVUS_TOKEN")
    for name in secrets:
        monkeypatch.setenv(name, "a-secret-of-the-tests")
    process._start("cpu:0", [])
    assert not given.keys() & set(secrets)
    assert given["PATH"] == os.environ["PATH"]
