"""Runs the commands of docs/pipelines.md and docs/example/ci, with a tiny checkpoint and int8 left out."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from .embedship.transfer import servers

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "pipelines.md").read_text()
CI = DOCS / "example" / "ci"
(KEYS,) = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
GITHUB = [
    step["run"]
    for step in yaml.safe_load((CI / "github-bundle.yml").read_text())["jobs"]["bundle"]["steps"]
    if "run" in step
]
GITLAB = yaml.safe_load((CI / "gitlab.yml").read_text())["bundle"]["script"]
# Two random layers hold far less redundancy than a trained model: int8 is not for them.
SMALL = {"--json": "--json --variants onnx,openvino", "--dry-run": "--dry-run --variants onnx,openvino"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of one layer with mean pooling, as sentence-transformers saves it."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("pipeline")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{n}" for n in range(60))]
    rust = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    rust.pre_tokenizer = pre_tokenizers.Whitespace()
    rust.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=rust, model_max_length=32, **names).save_pretrained(folder / "plain")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    torch.manual_seed(0)
    model = BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=32, initializer_range=0.2, **sizes))
    model.eval().save_pretrained(folder / "plain")
    modules = [Transformer(str(folder / "plain")), Pooling(32)]
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(folder / "model"), create_model_card=False)
    return folder / "model"


@pytest.fixture
def workspace(checkpoint: Path, tmp_path: Path) -> Path:
    """What a checkout would hold: the checkpoint, some texts, and the public key."""
    (tmp_path / "model").symlink_to(checkpoint)
    lines = (json.dumps({"text": " ".join(f"w{n * m % 60}" for m in range(1, 9))}) for n in range(1, 60))
    (tmp_path / "texts.jsonl").write_text("\n".join(lines))
    run(KEYS, tmp_path)
    return tmp_path


def run(script: str, folder: Path, **environment: str) -> str:
    """Run one step as a runner does, with `embedship` and `python` of this environment first on the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["bash", "-euo", "pipefail", "-c", script]
    environment = {**os.environ, "PATH": path, "PYTHONWARNINGS": "ignore", **environment}
    answer = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, f"{script}\n{answer.stdout[-2000:]}\n{answer.stderr[-2000:]}"
    return answer.stdout


def small(step: str) -> str | None:
    """The step with the variants of a random model; None for the install step: it is installed already."""
    if step.startswith("pip install"):
        return None
    for given, wanted in SMALL.items():
        if "embedship export" in step:
            step = step.replace(given, wanted)
    return step


@pytest.mark.parametrize("steps", [GITHUB, GITLAB], ids=["github", "gitlab"])
def test_the_steps_of_the_example_run(workspace: Path, steps: list[str], tool: Callable[[str], Path]) -> None:
    """Including the push, to a real registry."""
    key, summary, login = workspace / "signing.key", workspace / "summary", workspace / "login.json"
    login.write_text("{}")
    given = {
        "SIGNING_KEY": str(key) if steps is GITLAB else key.read_text().strip(),
        "GITHUB_STEP_SUMMARY": str(summary),
        "GITHUB_SHA": "0" * 40,
        "CI_COMMIT_SHA": "1" * 40,
        "DOCKER_CONFIG": str(workspace / ".docker"),
        "REGISTRY_LOGIN": str(login),
    }
    with servers.registry(tool("docker-registry"), workspace / "registry") as registry:
        for step in filter(None, map(small, steps)):
            run(step, workspace, REGISTRY=f"127.0.0.1:{registry.port}", **given)
            assert (workspace / "bundle").exists() == (workspace / "export.json").exists(), "a dry run writes nothing"
    assert steps is GITLAB or not key.exists(), "the last step deletes the key"
    exported: dict[str, Any] = json.loads((workspace / "export.json").read_text())
    verified: dict[str, Any] = json.loads((workspace / "verify.json").read_text())
    assert verified["fingerprint"] == exported["fingerprint"]
    assert verified["signature"] == "valid"
    pushed: dict[str, Any] = json.loads((workspace / "push.json").read_text())
    assert pushed["fingerprint"] == exported["fingerprint"]
    assert steps is GITLAB or all(pushed[key] in summary.read_text() for key in ("source", "digest", "fingerprint"))


def test_both_examples_are_found() -> None:
    assert len(GITHUB) == 8
    assert len(GITLAB) == 6


def test_the_table_of_exit_codes_is_that_of_the_errors() -> None:
    from embedship import errors

    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    shown = set(re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE))
    assert shown == {"0", "130", *(str(kind.exit_code) for kind in kinds)}
