"""A virtual environment of its own, because Optimum holds transformers at 4.57 and this project's tests run 5.x."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
# What is needed to install embedship, copied first: setuptools leaves a build folder where it works.
SOURCES = ("embedship", "export", "serve", "monitor", "pyproject.toml", "README.md", "LICENSE")

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def peer(environment: Callable[[str, Path], Path]) -> Path:
    """Built in two to three minutes."""
    return environment("interop", ROOT / "constraints-optimum.txt")


@pytest.fixture(scope="session")
def run(peer: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run that interpreter, offline, with this checkout's embedship installed for it."""
    work = tmp_path_factory.mktemp("peer")
    source, installed = work / "source", work / "installed"
    source.mkdir()
    for name in SOURCES:
        copy: Any = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        copy(ROOT / name, source / name)
    pip = [str(peer), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "--no-build-isolation", "--target", str(installed), str(source)], check=True)
    environment = {**os.environ, "PYTHONPATH": str(installed), "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONWARNINGS", None)

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [str(peer), "-P", *map(str, arguments)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)

    return run


@pytest.fixture(scope="session")
def tiny(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of two layers that speaks MiniLM's vocabulary, as sentence-transformers 6 saves it."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import AutoTokenizer, BertConfig, BertModel

    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(str(minilm), local_files_only=True)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=64, initializer_range=0.2,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder / "plain")
    tokenizer.save_pretrained(folder / "plain")
    modules = [Transformer(str(folder / "plain"), max_seq_length=64), Pooling(32), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(folder / "saved"), create_model_card=False)
    return folder / "saved"
