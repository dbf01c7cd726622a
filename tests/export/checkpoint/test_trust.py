from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from embedship.commands import main
from embedship.errors import UnsafeError, UsageError
from embedship.export.checkpoint import trust
from embedship.export.checkpoint.embedder import EmbedderCheckpoint
from embedship.export.checkpoint.folder import SentenceTransformersFolder
from embedship.export.checkpoint.open import OpenOptions, open_checkpoint

from ..conftest import edit

TEXTS = ["read the file", "a date"]
RAN = "embedship_test_code_that_ran"


@pytest.fixture
def pickled(tiny: Path, tmp_path: Path) -> Path:
    """Two shards, as a large model of 2.x has them, and a file of the trainer beside them."""
    folder = Path(shutil.copytree(tiny, tmp_path / "pickled"))
    tensors = sorted(load_file(folder / "model.safetensors").items())
    (folder / "model.safetensors").unlink()
    shards = {f"pytorch_model-{i + 1:05}-of-00002.bin": dict(tensors[i::2]) for i in range(2)}
    for name, shard in shards.items():
        torch.save(shard, folder / name)
    index = {"metadata": {}, "weight_map": {key: name for name, shard in shards.items() for key in shard}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    (folder / "optimizer.pt").write_bytes(b"never opened")
    return folder


@pytest.fixture
def coded(tiny: Path, tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(tiny, tmp_path / "coded"))
    code = "from transformers import BertModel\nimport sys\nfrom .other import name\n"
    (folder / "own.py").write_text(f"{code}sys.modules[name] = sys\nclass Own(BertModel):\n    pass\n")
    (folder / "other.py").write_text(f"name = {RAN!r}\n")
    edit(folder / "config.json", auto_map={"AutoModel": "own.Own"})
    return folder


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_pickles_open_by_their_hashes_and_give_the_same_weights(pickled: Path, tiny: Path) -> None:
    hashes = tuple(sha256(path) for path in pickled.glob("*.bin"))
    with open_checkpoint(pickled, OpenOptions(allow_pickle=hashes)) as source:
        ours, theirs = EmbedderCheckpoint.open(source), EmbedderCheckpoint.open(tiny)
    np.testing.assert_array_equal(ours.encode(TEXTS), theirs.encode(TEXTS))
    assert ours.source.weights_sha256 == theirs.source.weights_sha256
    assert ours.source.name == "pickled"
    assert not list(pickled.glob("*.safetensors")), "the checkpoint itself is never written to"


def test_a_wrong_hash_exits_4_and_names_the_file(
    pickled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = next(iter(sorted(pickled.glob("*.bin"))))
    second = sha256(sorted(pickled.glob("*.bin"))[1])
    options = ["--out", str(tmp_path / "bundle"), "--allow-pickle", "0" * 64, "--allow-pickle", second]
    assert main.run(["export", str(pickled), *options]) == 4
    told = capsys.readouterr().err
    assert first.name in told
    assert str(pickled) in told
    assert f"--allow-pickle {sha256(first)}" in told, "one of two is not enough"


class Harmful:
    def __reduce__(self) -> Any:
        return exec, (f"import sys; sys.modules[{RAN!r}] = sys",)


@pytest.mark.parametrize("content", [Harmful(), {"a": Harmful()}, [torch.ones(1)], {"a": "text"}])
def test_a_trusted_pickle_still_gives_nothing_but_tensors(pickled: Path, content: Any) -> None:
    path = min(pickled.glob("*.bin"))
    torch.save(content, path)
    hashes = tuple(sha256(path) for path in pickled.glob("*.bin"))
    with pytest.raises(UnsafeError, match=path.name), open_checkpoint(pickled, OpenOptions(allow_pickle=hashes)):
        pass
    assert RAN not in sys.modules


def test_code_runs_by_its_hash_and_leaves_nothing_behind(
    coded: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "cache"))
    other = ModuleType("transformers_modules")  # somebody has run another model's code in this process before
    other.__path__ = []
    monkeypatch.setitem(sys.modules, "transformers_modules", other)
    before = list(sys.path)
    with pytest.raises(UnsafeError, match=r"read the code \(other.py, own.py\)") as refusal:
        EmbedderCheckpoint.open(coded)
    told = re.search(r"--trust-remote-code (\w{64})", str(refusal.value))
    assert told
    assert told[1] == trust.code_sha256(coded)
    with open_checkpoint(coded, OpenOptions(trust_remote_code=told[1])) as source:
        ran = EmbedderCheckpoint.open(source)
        assert type(ran.model[0].model).__name__ == "Own"
        np.testing.assert_array_equal(ran.encode(TEXTS), EmbedderCheckpoint.open(tiny).encode(TEXTS))
    assert sys.modules.pop(RAN)
    assert ran.source.code_sha256 == told[1]
    assert not (tmp_path / "cache").exists()
    assert sys.path == before
    assert [module for name, module in sys.modules.items() if name.startswith("transformers_modules")] == [other]


@pytest.mark.parametrize("name", ["own.py", "other.py", "added/later.py"])
def test_changed_code_exits_4_and_does_not_run(
    coded: Path, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    read = trust.code_sha256(coded)
    (coded / name).parent.mkdir(exist_ok=True)
    with (coded / name).open("a") as file:
        file.write("# another line\n")
    options = ["--out", str(tmp_path / "bundle"), "--trust-remote-code", read]
    assert main.run(["export", str(coded), *options]) == 4
    told = capsys.readouterr().err
    assert name in told
    assert trust.code_sha256(coded) in told
    assert RAN not in sys.modules


def test_code_of_another_model_is_refused_with_any_hash(coded: Path) -> None:
    edit(coded / "config.json", auto_map={"AutoModel": "else/where--own.Own"})
    how = OpenOptions(trust_remote_code=trust.code_sha256(coded))
    with pytest.raises(UnsafeError, match="code of another model"), open_checkpoint(coded, how):
        pass


def test_a_safetensors_file_of_another_name_hides_no_pickle(tiny: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "hidden"))
    modules = json.loads((folder / "modules.json").read_text())
    kind = "sentence_transformers.sentence_transformer.modules.dense.Dense"
    modules.append({"idx": len(modules), "name": "dense", "path": "2_Dense", "type": kind})
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "2_Dense").mkdir()
    (folder / "2_Dense" / "config.json").write_text('{"in_features": 32, "out_features": 8}')
    shutil.copy(folder / "model.safetensors", folder / "2_Dense" / "decoy.safetensors")
    (folder / "2_Dense" / "pytorch_model.bin").write_bytes(b"never opened")
    with pytest.raises(UsageError, match=r"has no weights \(model\.safetensors\)"):
        SentenceTransformersFolder.open(folder)
