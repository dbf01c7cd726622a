from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedship.codes import cosine
from embedship.errors import GateError, MismatchError, UnsafeError, UsageError
from embedship.export.checkpoint import adapter
from embedship.export.checkpoint.embedder import EmbedderCheckpoint
from embedship.export.checkpoint.open import OpenOptions, open_checkpoint
from embedship.files.sealed import sha256_of

from ..conftest import Make, adapted, base_of, edit

TEXTS = ["read the file", "a", "parse a date of the text"]


@pytest.fixture(scope="session")
def saved(checkpoint: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As PEFT saves it, over a sentence-transformers folder."""
    return adapted(checkpoint, tmp_path_factory.mktemp("lora"), whole=False)


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def open_(folder: Path, **how: Any) -> EmbedderCheckpoint:
    with open_checkpoint(folder, OpenOptions(**how)) as source:
        return EmbedderCheckpoint.open(source)


def retensored(
    change: Callable[[dict[str, Any]], dict[str, Any]], name: str = adapter.WEIGHTS
) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        path = folder / name
        save_file(change(load_file(path)), path, metadata={"format": "pt"})

    return spoil


def settings(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / adapter.CONFIG, **changes)


def base_edit(**changes: Any) -> Callable[[Path], None]:
    """Point to a copy of the base whose config.json says otherwise."""

    def spoil(folder: Path) -> None:
        base = Path(shutil.copytree(base_of(folder), folder.parent / "base"))
        edit(base / "config.json", **changes)
        edit(folder / adapter.CONFIG, base_model_name_or_path=str(base))

    return spoil


def pickled(folder: Path) -> None:
    (folder / adapter.WEIGHTS).rename(folder / "adapter_model.bin")


def renamed(name: str) -> str:
    return name.replace("layer.0", "layer.7")


def own_tokens(folder: Path) -> None:
    shutil.copy(Path(base_of(folder), "tokenizer.json"), folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["added_tokens"].append({**content["added_tokens"][0], "id": 999, "content": "<mine>"})
    (folder / "tokenizer.json").write_text(json.dumps(content))


REFUSED: dict[str, tuple[Callable[[Path], Any], type[Exception], str]] = {
    "no base": (settings(base_model_name_or_path="a/b"), UsageError, "over a/b, and the base is not here: give --base"),
    "base without a name": (settings(base_model_name_or_path=None), UsageError, "not here: give --base PATH"),
    "quantised base": (base_edit(quantization_config={"load_in_4bit": True}), UsageError, "is quantised"),
    "another kind": (settings(peft_type="IA3"), UsageError, "of type IA3: only LORA"),
    "base changed at the start": (settings(init_lora_weights="pissa"), UsageError, "a changed base.*pissa"),
    "whole layers": (settings(modules_to_save=["pooler"]), UsageError, "modules_to_save"),
    "another class": (
        settings(auto_mapping={"base_model_class": "MPNetModel"}), MismatchError, "on a MPNetModel.*is a BertModel",
    ),
    "another size": (
        retensored(lambda t: {k: v[:, :-1].contiguous() for k, v in t.items()}), UsageError, "does not fit its base",
    ),
    "a weight too many": (
        retensored(lambda t: t | {renamed(k): v.clone() for k, v in t.items()}), UsageError, "no counterpart.*layer.7",
    ),
    "a weight too few": (
        retensored(lambda t: {k: v for k, v in t.items() if "layer.1" in k}), UsageError, "no counterpart.*layer.0",
    ),
    "NaN": (retensored(lambda t: {k: v * float("nan") for k, v in t.items()}), GateError, "cannot be merged|moves its"),
    "no weights": (lambda f: (f / adapter.WEIGHTS).unlink(), UsageError, "not a complete adapter"),
    "pickle": (pickled, UnsafeError, "adapter_model.bin.*--allow-pickle"),
    "tokens of its own": (own_tokens, UsageError, "another vocabulary"),
    "no pooling": (
        lambda f: settings(base_model_name_or_path=str(Path(base_of(f)).parent / "plain"))(f), UsageError, "--pooling",
    ),
}  # fmt: skip


@pytest.mark.parametrize("why", REFUSED)
def test_what_does_not_merge_exactly_is_refused_with_cause_and_cure(copy: Path, why: str) -> None:
    spoil, error, message = REFUSED[why]
    spoil(copy)
    with pytest.raises(error, match=f"(?s){message}") as refusal:
        open_(copy)
    assert "/embedship-" not in str(refusal.value), "names a folder that is gone"


@pytest.mark.parametrize("variety", [{}, {"use_dora": True}, {"use_rslora": True}])
def test_what_was_merged_is_written_down(checkpoint: Make, tmp_path: Path, variety: dict[str, Any]) -> None:
    folder = adapted(checkpoint, tmp_path, whole=False, **variety)
    base = Path(base_of(folder))
    merged, bare = open_(folder), EmbedderCheckpoint.open(base)
    assert cosine(merged.encode(TEXTS), bare.encode(TEXTS)).max() < 0.999, "the adapter must matter"
    merge = merged.source.merge
    assert merge
    assert adapter.FLOOR < merge.minimum <= 1.0000001
    assert merge.base == {"model.safetensors": sha256_of(base / "model.safetensors")}
    assert merge.adapter_sha256 == sha256_of(folder / adapter.WEIGHTS)
    assert merged.source.name == "adapter"
    assert "peft" in merged.source.versions
    assert "peft" not in bare.source.versions
    assert merged.source.weights_sha256 != bare.source.weights_sha256
    assert merged.pipeline == bare.pipeline


def test_a_merge_that_moves_vectors_fails_the_gate(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "FLOOR", 1.1)
    with pytest.raises(GateError, match=r"moves its vectors: cosine .*floor 1.1"):
        open_(saved)


def test_a_base_of_another_revision_is_refused(copy: Path) -> None:
    base = Path(shutil.copytree(base_of(copy), copy.parent / ("b" * 40)))
    settings(base_model_name_or_path=str(base), revision="a" * 40)(copy)
    with pytest.raises(MismatchError, match=r"revision aaaa.*not on bbbb"):
        open_(copy)
    settings(revision="b" * 40)(copy)
    open_(copy)


def test_the_revision_that_was_trained_on_is_taken(
    copy: Path, checkpoint: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache holds two commits of the base: `main`, and another with a tag and weights of its own."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))  # read from the environment at import
    cache, main, tagged = tmp_path / "hub" / "models--some--base", "a" * 40, "b" * 40
    for commit, name in ((main, "main"), (tagged, "v1.5")):
        shutil.copytree(base_of(copy), cache / "snapshots" / commit)
        (cache / "refs").mkdir(exist_ok=True)
        (cache / "refs" / name).write_text(commit)
    retensored(lambda t: {k: v * 0.9 for k, v in t.items()}, "model.safetensors")(cache / "snapshots" / tagged)
    for revision, commit in ((None, main), ("main", main), (main, main), ("v1.5", tagged), (tagged, tagged)):
        settings(base_model_name_or_path="some/base", revision=revision)(copy)
        assert Path(adapter.base_of(copy)) == cache / "snapshots" / commit
    merge = open_(copy).source.merge
    assert merge
    assert merge.base == {"model.safetensors": sha256_of(cache / "snapshots" / tagged / "model.safetensors")}
    for revision in ("v2", "c" * 40):
        settings(revision=revision)(copy)
        with pytest.raises(UsageError, match=f"at revision {revision}, which is not here.*--base some/base@{revision}"):
            open_(copy)


def test_an_adapter_trained_through_the_causal_class_finds_its_place(checkpoint: Make, tmp_path: Path) -> None:
    """Its weights are named model.layers..., the transformer's own layers..."""
    folder = adapted(checkpoint, tmp_path, False, "qwen3")
    before = open_(folder).encode(TEXTS)
    prefix = "base_model.model."
    retensored(lambda t: {k.replace(prefix, f"{prefix}model."): v for k, v in t.items()})(folder)
    settings(auto_mapping={"base_model_class": "Qwen3ForCausalLM"})(folder)
    assert cosine(open_(folder).encode(TEXTS), before).min() > 0.999999


def test_a_plain_base_takes_the_pooling_that_is_asked_for(copy: Path) -> None:
    expected = open_(copy).encode(TEXTS)
    plain = Path(base_of(copy)).parent / "plain"
    settings(base_model_name_or_path="elsewhere/base")(copy)
    merged = open_(copy, base=str(plain), pooling="mean", normalize=True)
    assert cosine(merged.encode(TEXTS), expected).min() > 0.999999


def test_base_without_an_adapter_is_refused(tiny: Path) -> None:
    with pytest.raises(UsageError, match="not a PEFT adapter, so --base"):
        open_(tiny, base=str(tiny))


def test_a_pooling_that_would_be_ignored_is_refused(checkpoint: Make, tmp_path: Path) -> None:
    folder = adapted(checkpoint, tmp_path, whole=True)
    with pytest.raises(UsageError, match="leave --pooling out"):
        open_(folder, pooling="cls")


def test_an_adapter_over_code_is_refused(saved: Path) -> None:
    with pytest.raises(UsageError, match="not merged into a base with its own code"):
        open_(saved, trust_remote_code="0" * 64)


def test_a_pickled_adapter_opens_by_its_hash(copy: Path) -> None:
    import torch
    from safetensors.torch import load_file

    expected = open_(copy).encode(TEXTS)
    path = copy / "adapter_model.bin"
    torch.save(load_file(copy / adapter.WEIGHTS), path)
    (copy / adapter.WEIGHTS).unlink()
    np.testing.assert_array_equal(open_(copy, allow_pickle=(sha256_of(path),)).encode(TEXTS), expected)
