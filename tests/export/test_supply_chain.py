"""A signed export of a tiny checkpoint: nothing in it may change, and all in it can be traced and made again."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from rich.console import Console

from embedship.bundle import MANIFEST, REPORT_HTML, REPORT_JSON, SIGNATURE, Bundle
from embedship.commands import main
from embedship.errors import EmbedshipError
from embedship.export.build import build
from embedship.export.options import ExportOptions
from embedship.export.report.sbom import SBOM
from embedship.export.steps import StepTimer

VARIANTS = ("onnx", "openvino")
EPOCH = "1700000000"


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    path.write_text(
        "".join(json.dumps({"text": f"read the file number {n} of the date {n * n}"}) + "\n" for n in range(60))
    )
    return path


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("keys")
    private, public = folder / "signing.key", folder / "signing.pub"
    for command in (
        ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(private)],
        ["openssl", "ec", "-in", str(private), "-pubout", "-out", str(public)],
    ):
        subprocess.run(command, check=True, capture_output=True)
    return private, public


def export(checkpoint: Path, out: Path, texts: Path, key: Path | None = None, **options: object) -> Bundle:
    export_options = ExportOptions(texts=texts, variants=VARIANTS, sign=key, name="tiny", **options)  # type: ignore[arg-type]
    return build(checkpoint, out, export_options, StepTimer(Console(quiet=True)))


@pytest.fixture(scope="module")
def exported(tiny: Path, texts: Path, keys: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SOURCE_DATE_EPOCH", EPOCH)
        return export(tiny, tmp_path_factory.mktemp("signed") / "bundle", texts, keys[0]).folder


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "copy"))


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_command_verifies_what_was_signed(
    exported: Path, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["verify", str(exported), "--key", str(keys[1]), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["signature"] == "valid"
    assert main.run(["verify", str(exported)]) == 0
    assert "was not checked" in " ".join(capsys.readouterr().out.split())


def test_a_changed_byte_in_any_file_is_named(
    copy: Path, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    files = contents(copy)
    assert {MANIFEST, SBOM, SIGNATURE, REPORT_HTML, REPORT_JSON, "tokenizer.json", "onnx/model.onnx"} <= set(files)
    for name, content in files.items():
        for spoiled in (content[: len(content) // 2], content[:-1] + bytes([content[-1] ^ 1])):
            (copy / name).write_bytes(spoiled)
            code = main.run(["verify", str(copy), "--key", str(keys[1])])
            # A manifest cut to half of its format number is another format; anything else is tampering.
            assert code == 4, name
            assert name in capsys.readouterr().err
        (copy / name).write_bytes(content)
    assert main.run(["verify", str(copy), "--key", str(keys[1])]) == 0


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda f: (f / "golden.safetensors").unlink(), "golden.safetensors is missing"),
        (lambda f: (f / "onnx" / "evil.py").touch(), "onnx/evil.py was added"),
        (lambda f: os.mkfifo(f / "pipe"), "pipe was added"),
        (lambda f: (f / "link").symlink_to("/etc"), "link was added"),
        (lambda f: _outside(f, "tokenizer.json"), "tokenizer.json is a symbolic link"),
        (lambda f: _outside(f, "openvino"), "openvino is a symbolic link"),
        (lambda f: _pipe(f / "tokenizer.json"), "tokenizer.json is not a regular file"),
        (lambda f: _pipe(f / MANIFEST), f"{MANIFEST} is not a regular file"),
    ],
)
def test_whatever_else_is_wrong_is_named_and_nothing_hangs(
    copy: Path, spoil: Callable[[Path], object], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(copy)
    assert main.run(["verify", str(copy), "--json"]) == 4
    assert named in json.loads(capsys.readouterr().out)["error"]


def _outside(folder: Path, name: str) -> None:
    (folder / name).symlink_to((folder / name).rename(folder.parent / "outside"))


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def test_every_problem_is_named_at_once(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copy / "config.json").unlink()
    (copy / "tokenizer.json").write_text("{}")
    (copy / "extra").touch()
    assert main.run(["verify", str(copy)]) == 4
    said = capsys.readouterr().err
    assert all(what in said for what in ("config.json is missing", "tokenizer.json has 2 bytes", "extra was added"))


def test_exporting_again_gives_the_same_folder(
    exported: Path, tiny: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", EPOCH)
    again = export(tiny, tmp_path / "again", texts, force=True)
    ours, theirs = contents(exported), contents(again.folder)
    assert ours.keys() - {SIGNATURE} == theirs.keys()
    speeds = {MANIFEST, REPORT_HTML, REPORT_JSON}
    assert {name for name in theirs if ours[name] != theirs[name]} == speeds
    before, after = Bundle.open(exported).manifest, again.manifest
    assert (before.fingerprint, before.created, before.provenance) == (
        after.fingerprint,
        after.created,
        after.provenance,
    )
    assert before.created == "2023-11-14T22:13:20+00:00"


def test_where_it_came_from(exported: Path, tiny: Path, texts: Path) -> None:
    found = Bundle.open(exported).manifest.provenance
    for name in ("model.safetensors", "modules.json", "1_Pooling/config.json"):
        assert found.files[name] == hashlib.sha256((tiny / name).read_bytes()).hexdigest()
    assert found.options["texts"] == f"texts.jsonl sha256:{hashlib.sha256(texts.read_bytes()).hexdigest()}"
    assert (found.options["name"], found.options["variants"]) == ("tiny", '["onnx","openvino"]')
    assert str(texts.parent) not in (exported / MANIFEST).read_text()
    assert str(tiny) not in (exported / MANIFEST).read_text()


def test_the_bill_of_materials_is_valid_and_true(exported: Path) -> None:
    text = (exported / SBOM).read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bill, bundle = json.loads(text), Bundle.open(exported)
    model = bill["metadata"]["component"]
    assert (model["type"], model["name"]) == ("machine-learning-model", "tiny")
    facts = {row["name"]: row["value"] for row in model["properties"]}
    assert facts["embedship:fingerprint"] == bundle.fingerprint
    hashes = {file["name"]: file["hashes"][0]["content"] for file in model["components"]}
    assert set(hashes) == {"onnx/model.onnx", "openvino/openvino_model.xml", "openvino/openvino_model.bin"}
    assert all(bundle.manifest.files[name].sha256 == sha256 for name, sha256 in hashes.items())
    packages = {row["name"]: row for row in bill["components"]}
    assert {name: row["version"] for name, row in packages.items()} == bundle.manifest.source.versions
    assert packages["onnx"]["purl"] == f"pkg:pypi/onnx@{packages['onnx']['version']}"
    assert packages["onnx"]["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    assert bill["metadata"]["timestamp"] == bundle.manifest.created
    (needs,) = (row["dependsOn"] for row in bill["dependencies"] if row["ref"] == model["bom-ref"])
    assert len(needs) == len(packages)


def test_a_dry_run_says_what_the_export_then_does(
    exported: Path, tiny: Path, texts: Path, keys: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "bundle"
    options = ["--texts", texts, "--variants", ",".join(VARIANTS), "--sign", keys[0], "--dry-run"]
    command = ["export", str(tiny), "--out", str(out), "--name", "tiny", *map(str, options)]
    assert main.run([*command, "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["fingerprint"] == Bundle.open(exported).fingerprint
    assert set(planned["files"]) == set(contents(exported))
    assert [one["name"] for one in planned["variants"]] == list(VARIANTS)
    assert main.run(command) == 0
    assert "nothing was written" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["{tiny}", "--out", "{exported}"], 2, "--force"),
        (["{tiny}", "--out", "{out}", "--texts", "{out}"], 2, "cannot be read"),
        (["{tiny}", "--out", "{out}", "--sign", "{texts}"], 2, "private key"),
        (["{tiny}", "--out", "{out}", "--variants", "onnx-O9"], 2, "no variant"),
        (["{out}", "--out", "{out}"], 2, "is not a folder"),
        (["{unsafe}", "--out", "{out}"], 4, "auto_map"),
    ],
)
def test_a_dry_run_refuses_what_the_export_would(
    exported: Path, tiny: Path, texts: Path, tmp_path: Path, arguments: list[str], code: int, named: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    unsafe = Path(shutil.copytree(tiny, tmp_path / "unsafe"))
    config = json.loads((unsafe / "config.json").read_text())
    (unsafe / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "evil.Model"}}))
    paths = {"tiny": tiny, "exported": exported, "out": tmp_path / "out", "texts": texts, "unsafe": unsafe}
    line = ["export", *(argument.format(**paths) for argument in arguments), "--dry-run", "--json"]
    assert main.run(line) == code
    answer = json.loads(capsys.readouterr().out)
    assert answer["exit_code"] == code
    assert named in answer["error"]
    assert [path.name for path in tmp_path.iterdir()] == ["unsafe"]


def test_a_dry_run_knows_the_size(minilm: Path, bundle: Path, tmp_path: Path) -> None:
    from embedship.export.dry_run import plan

    planned = plan(minilm, tmp_path / "bundle", ExportOptions(), StepTimer(Console(quiet=True)))
    sizes = {v.name: v.size for v in Bundle.open(bundle).manifest.variants}
    for one in planned.variants:
        assert one.bytes == pytest.approx(sizes[one.name], rel=0.05), one.name


# Of the tiny model: the frozen tokenizer takes 3 kB, the golden texts 20 kB, a graph 100 kB.
@pytest.mark.parametrize("size", [1_000, 10_000, 50_000])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(tiny: Path, texts: Path, tmp_path: Path, size: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        with pytest.raises(EmbedshipError, match=r"bundle could not be written: .*free some space"):
            export(tiny, tmp_path / "bundle", texts)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []
