"""What the CPU image is made of, made here: its RUN lines in a clean folder, its health check and command on that.

Not seen here: the base image, the file system's owner and mode, the user. There is no container engine to build with.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ..helm.dockerfile import IMAGES, Instruction, stages

ROOT = Path(__file__).parents[2]
BUILD, FINAL = stages(IMAGES[0])
PREFIX = "/opt/embedship"


def only(name: str, among: list[Instruction]) -> str:
    (found,) = [each.text for each in among if each.name == name]
    return found


def copy(there: Path, here: Path) -> None:
    if there.is_dir():
        shutil.copytree(there, here, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copyfile(there, here)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The build stage's folder PREFIX, made by its COPY and RUN lines."""
    work = tmp_path_factory.mktemp("image")
    source, prefix = work / "source", work / "opt"
    source.mkdir()
    for each in BUILD:
        if each.name == "COPY":
            *names, target = each.text.split()
            for name in names:
                copy(ROOT / name, source / target if (ROOT / name).is_dir() else source / name)
    (work / "bin").mkdir()
    (work / "bin" / "python").symlink_to(Path(sys.base_prefix) / "bin" / "python3")
    arguments = dict(each.text.split("=", 1) for each in BUILD if each.name == "ARG")
    clean = {key: value for key, value in os.environ.items() if key.startswith(("PIP_", "HOME", "SSL_", "HTTP", "NO_"))}
    environment = {**clean, **arguments, "PATH": f"{work / 'bin'}:/usr/bin:/bin"}
    command = only("RUN", BUILD).replace(PREFIX, str(prefix))
    subprocess.run(["sh", "-ec", command], cwd=source, env=environment, check=True, timeout=600)
    return prefix


def environment(made: Path, **more: str) -> dict[str, str]:
    """As the image's ENV lines say, with its folder where it lies here."""
    text = only("ENV", FINAL).replace(PREFIX, str(made)).replace("$PATH", "/usr/bin:/bin")
    return {**dict(part.split("=", 1) for part in shlex.split(text)), **more}


def test_it_holds_no_torch_and_no_pip(made: Path) -> None:
    there = {path.name for path in (made / "lib").glob("python*/site-packages/*")}
    assert {"embedship", "onnxruntime", "openvino", "faiss", "uvicorn", "obstore", "requests"} <= there
    assert there & {"torch", "transformers", "sentence_transformers", "pip", "nncf", "onnx"} == set()
    assert list((made / "lib").rglob("embedship/serve/__pycache__/*.pyc")), "compiled: a read-only root cannot be"


def test_it_holds_no_plugin_that_it_cannot_use(made: Path) -> None:
    (libraries,) = (made / "lib").glob("python*/site-packages/openvino/libs")
    there = {path.name.split(".")[0] for path in libraries.iterdir()}
    assert {"libopenvino_intel_cpu_plugin", "libopenvino_ir_frontend"} <= there
    assert [name for name in there if "gpu" in name or "npu" in name or name.endswith(("onnx_frontend", "cache"))] == []
    total = sum(path.stat().st_size for path in made.rglob("*") if path.is_file() and not path.is_symlink()) / 1e6
    openvino = sum(path.stat().st_size for path in libraries.parent.rglob("*") if path.is_file()) / 1e6
    print(f"the CPU image's {PREFIX}: {total:.0f} MB, of which OpenVINO {openvino:.0f}")
    assert openvino < 120


def test_its_versions_are_the_tested_ones(made: Path) -> None:
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    pinned = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pinned.items()}
    code = "import importlib.metadata as m, json; print(json.dumps([(d.name, d.version) for d in m.distributions()]))"
    answer = subprocess.run([made / "bin/python", "-c", code], capture_output=True, text=True, check=True)
    found = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in json.loads(answer.stdout)}
    del found["embedship"]
    assert len(found) > 30
    assert {name: version for name, version in found.items() if pinned.get(name) != version} == {}


def test_it_serves_and_says_that_it_is_well(made: Path, bundle: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    here = {"EMBEDSHIP_HOST": "127.0.0.1", "EMBEDSHIP_PORT": port, "EMBEDSHIP_BUNDLE": str(bundle)}
    env = environment(made, **here, EMBEDSHIP_CACHE=str(tmp_path), HOME=str(tmp_path))
    entry = json.loads(only("ENTRYPOINT", FINAL)) + json.loads(only("CMD", FINAL))
    check = json.loads(re.search(r"CMD (\[.*\])$", only("HEALTHCHECK", FINAL))[1])  # type: ignore[index]

    def healthy() -> bool:
        program = [str(made / "bin" / check[0]), *check[1:]]
        return subprocess.run(program, env=env, capture_output=True, check=False).returncode == 0

    assert not healthy()
    with subprocess.Popen([str(made / "bin" / entry[0]), *entry[1:]], env=env, cwd=tmp_path) as server:
        try:
            end = time.monotonic() + 120
            while not healthy():
                assert server.poll() is None
                assert time.monotonic() < end
            verb = [str(made / "bin" / "embedship"), "check", f"http://127.0.0.1:{port}", "--bundle", str(bundle)]
            subprocess.run(verb, env=env, check=True)
        finally:
            server.terminate()
    assert server.returncode == 0
    assert not healthy()
