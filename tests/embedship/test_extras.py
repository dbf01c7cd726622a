"""Every command with only some extras installed: it works, or a message names what is missing."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from embedship import distributions
from embedship.commands import main
from embedship.errors import MissingExtra

# Modules, by import name, that pip installs with embedship itself and with [cpu].
CORE = {
    "annotated_doc", "click", "embedship", "markdown_it", "mdurl", "msgspec", "numpy", "prometheus_client", "pygments",
    "rich", "safetensors", "scipy", "shellingham", "tokenizers", "typer", "typing_extensions",
}  # fmt: skip
CPU = CORE | {
    "faiss", "flatbuffers", "google", "h11", "httptools", "jinja2", "markupsafe", "onnxruntime", "openvino",
    "packaging", "threadpoolctl", "uvicorn", "uvloop",
}  # fmt: skip

CORPUS = Path(__file__).parents[2] / "docs" / "example" / "corpus.jsonl"
TEXTS = '{"text": "one"}\n{"text": "two"}\n'
# One line per command that passes its first checks. {bundle} is a real bundle, {w} an empty folder.
LINES = {
    "export": "export {checkpoint} --out {w}/bundle",
    "export --dry-run": "export {checkpoint} --out {w}/bundle --dry-run",
    "export of a hub id": "export organisation/model --out {w}/bundle",
    "verify": "verify {bundle}",
    "verify --key": "verify {bundle} --key {w}/texts.jsonl",
    "tune": "tune {bundle} --cache {w} --seconds 0.1",
    "evaluate": "evaluate {bundle} {w}",
    "sign": "sign {bundle} --key {w}/texts.jsonl",
    "push": "push {bundle} oci://127.0.0.1:1/x:y",
    "pull": "pull https://127.0.0.1:1/x --out {w}/pulled",
    "pull of a hub id": "pull hf://organisation/model --out {w}/pulled",
    "pull from S3": "pull s3://bucket/key --out {w}/pulled",
    "encode": "encode {bundle} {w}/texts.jsonl --out {w}/encoded",
    "encode to Parquet": "encode {bundle} {w}/texts.jsonl --out {w}/encoded --format parquet",
    "encode --ray": "encode {bundle} {w}/texts.jsonl --out {w}/encoded --ray local",
    "index": "index {bundle} {corpus} --out {w}/index",
    "index in Milvus": "index {bundle} {corpus} --out milvus:{w}/file.db/name",
    "index update": "index update {w} {w}/texts.jsonl",
    "index migrate": "index migrate {w} {bundle} --out {w}/new",
    "index sign": "index sign {w} --key {w}/none",
    "index verify": "index verify {w}",
    "serve": "serve {w}/none",
    "check": "check http://127.0.0.1:1 --bundle {bundle}",
    "audit": "audit http://127.0.0.1:1 --bundle {bundle}",
    "compare": "compare {bundle} {bundle} {w}/texts.jsonl",
    "reference": "reference {bundle} {w}/texts.jsonl",
    "drift": "drift {w}/texts.jsonl --bundle {bundle}",
    "monitor": "monitor init --out {w}/monitor",
    "backup": "backup {w} --to {w}/backup",
    "restore": "restore {w} --to {w}/restored",
    "demo": "demo --once --dir {w}/demo",
}


def run(line: str, allowed: set[str]) -> subprocess.CompletedProcess[str]:
    """Run one command line in a process that can import only the standard library and the `allowed` modules."""
    code = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names and top not in {sorted(allowed)} and not top.startswith("_"):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
from embedship.commands.main import run
sys.exit(run({line.split()}))
"""
    return subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=120, check=False, encoding="utf-8"
    )


def test_each_verb_is_tried() -> None:
    assert {verb.split()[0] for verb in main.COMMANDS} == {line.split()[0] for line in LINES.values()}


@pytest.mark.slow
@pytest.mark.parametrize("allowed", [CORE, CPU], ids=["core", "cpu"])
@pytest.mark.parametrize("name", LINES)
def test_a_verb_without_its_extra_ends_with_a_sentence(
    name: str, allowed: set[str], bundle: Path, minilm: Path, tmp_path: Path
) -> None:
    (tmp_path / "texts.jsonl").write_text(TEXTS)
    line = LINES[name].format(checkpoint=minilm, bundle=bundle, w=tmp_path, corpus=CORPUS)
    ended = run(line, allowed)
    assert "Traceback" not in ended.stderr, ended.stderr
    assert ended.returncode in {0, 1, 2, 4}, ended.stderr
    if name == "export" or (allowed is CORE and name in {"verify", "encode", "index", "tune"}):
        assert ended.returncode == 2
        assert "is not installed. It comes with the extra [" in ended.stderr


def test_a_missing_file_of_our_own_is_no_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = main.COMMANDS["verify"]._replace(module="embedship.no_such_module")
    monkeypatch.setitem(main.COMMANDS, "verify", broken)
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        main.run(["verify", "bundle"])


def test_the_sentence_names_both_commands_that_work() -> None:
    sentence = str(MissingExtra("pyarrow", "parquet"))
    assert "pip install -c constraints.txt '.[parquet]' in a checkout" in sentence
    assert "-py3-none-any.whl[parquet]' with its wheel" in sentence


def test_two_builds_of_one_library_are_noticed_with_the_cure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    releases = {"onnxruntime": "1.31.1", "onnxruntime-gpu": "1.30.0", "faiss-cpu": "1.15.1"}

    def version(name: str) -> str:
        if name in releases:
            return releases[name]
        raise PackageNotFoundError(name)

    monkeypatch.setattr(distributions, "version", version)
    assert main.run(["verify", str(tmp_path)]) == 2
    warned = " ".join(capsys.readouterr().err.split())
    assert "warning: onnxruntime 1.31.1 and onnxruntime-gpu 1.30.0 are installed over each other" in warned
    assert "pip uninstall --yes onnxruntime onnxruntime-gpu, and then pip install onnxruntime==1.31.1 or" in warned
    assert "faiss" not in warned


def test_a_module_has_the_version_of_whichever_distribution_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    releases = {"onnxruntime-gpu": "1.31.1", "numpy": "2.4.6"}

    def version(name: str) -> str:
        if name in releases:
            return releases[name]
        raise PackageNotFoundError(name)

    monkeypatch.setattr(distributions, "version", version)
    assert distributions.installed_version("onnxruntime") == "1.31.1"
    assert distributions.installed_version("numpy") == "2.4.6"
    assert distributions.conflicts() == []
    with pytest.raises(PackageNotFoundError):
        distributions.installed_version("openvino")
