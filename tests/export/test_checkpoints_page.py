"""Every command of docs/checkpoints.md, run on small models; those that ask a hub are in test_hub.py."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from embedship.bundle import Bundle
from embedship.commands import main
from embedship.export.checkpoint import hub, trust

from .conftest import Make, adapted, base_of, edit

PAGE = Path(__file__).parents[2] / "docs" / "checkpoints.md"
PRINTED = re.findall(r"^    embedship (export .*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
COMMANDS = [command for command in PRINTED if not hub.is_id(command.split()[1])]
Words = Callable[[Make, Path], dict[str, str]]


def adapter(make: Make, place: Path) -> dict[str, str]:
    folder = adapted(make, place, whole=False)
    base = Path(base_of(folder))
    edit(folder / "adapter_config.json", base_model_name_or_path="somebody/else")
    return {"ADAPTER": str(folder), "BASE": str(base), "PLAIN": str(base.parent / "plain")}


def plain(make: Make, place: Path) -> dict[str, str]:
    return {"PLAIN": str(make().parent / "plain")}


def pickled(make: Make, place: Path) -> dict[str, str]:
    folder = Path(shutil.copytree(make(), place / "pickled"))
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    digest = hashlib.sha256((folder / "pytorch_model.bin").read_bytes()).hexdigest()
    return {"PICKLED": str(folder), "SHA256": digest}


def coded(make: Make, place: Path) -> dict[str, str]:
    folder = Path(shutil.copytree(make(), place / "coded"))
    (folder / "own.py").write_text("from transformers import BertModel\n\n\nclass Own(BertModel):\n    pass\n")
    edit(folder / "config.json", auto_map={"AutoModel": "own.Own"})
    return {"CODED": str(folder), "SHA256": trust.code_sha256(folder)}


KINDS: dict[str, Words] = {"ADAPTER": adapter, "PLAIN": plain, "PICKLED": pickled, "CODED": coded}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_does_what_the_page_says(command: str, checkpoint: Make, tmp_path: Path) -> None:
    words = KINDS[command.split()[1]](checkpoint, tmp_path) | {"bundle": str(tmp_path / "bundle")}
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": f"read the file {i}"}) + "\n" for i in range(9)))
    arguments = [words.get(word, word) for word in command.split()]
    assert main.run([*arguments, "--texts", str(texts), "--variants", "onnx", "--json"]) == 0
    assert Bundle.open(tmp_path / "bundle").verify() > 5
