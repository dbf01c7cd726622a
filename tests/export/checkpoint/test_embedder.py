from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedship.errors import EmbedshipError, UnsafeError, UsageError
from embedship.export.checkpoint import layout
from embedship.export.checkpoint import tokenizer as checkpoint_tokenizer
from embedship.export.checkpoint.dimensions import StatedDimensions
from embedship.export.checkpoint.embedder import EmbedderCheckpoint
from embedship.export.checkpoint.folder import SentenceTransformersFolder
from embedship.tokens import Tokenizer

from ..conftest import edit


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "copy"))


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def retyped(kind: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        modules = json.loads((folder / "modules.json").read_text())
        modules[-1]["type"] = kind
        (folder / "modules.json").write_text(json.dumps(modules))

    return change


def without_pooling(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps(modules[:1]))


NEWER = {"sentence_transformers": "99.0.0"}
REFUSED = {
    "no modules.json": (lambda f: (f / "modules.json").unlink(), UsageError, "no modules.json.*save_pretrained"),
    "no config.json": (lambda f: (f / "config.json").unlink(), UsageError, "no config.json"),
    "torn modules.json": (lambda f: (f / "modules.json").write_text("[{"), UsageError, "modules.json is damaged"),
    "torn config.json": (lambda f: (f / "config.json").write_text("{"), UsageError, "cannot be read as JSON"),
    "pickle": (pickled, UnsafeError, "pickle.*can run code.*save_pretrained"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), UsageError, "no weights"),
    "torn weights": (lambda f: (f / "model.safetensors").write_bytes(b"x" * 99), UsageError, "cannot be opened"),
    "remote code": (lambda f: edit(f / "config.json", auto_map={"AutoModel": "a.B"}), UnsafeError, "remote code"),
    "remote tokenizer": (lambda f: edit(f / "tokenizer_config.json", auto_map={}), UnsafeError, "remote code"),
    "own module": (retyped("mine.Normalize"), UnsafeError, "runs its own code"),
    "unknown module": (retyped("sentence_transformers.models.CNN"), UsageError, "has a CNN module"),
    "no pooling": (without_pooling, UsageError, "a Transformer followed by a Pooling"),
    "adapter": (lambda f: edit(f / "adapter_config.json"), UsageError, "PEFT adapter.*merge"),
    "newer transformers": (lambda f: edit(f / "config.json", transformers_version="99.1"), UsageError, "pip install"),
    "newer sentence-transformers": (
        lambda f: edit(f / "config_sentence_transformers.json", __version__=NEWER), UsageError, "pip install",
    ),
    "cross-encoder": (
        lambda f: edit(f / "config_sentence_transformers.json", model_type="CrossEncoder"), UsageError, "CrossEncoder:",
    ),
    "missing layer": (lambda f: edit(f / "config.json", num_hidden_layers=3), UsageError, "random numbers"),
}  # fmt: skip


@pytest.mark.parametrize("why", REFUSED)
def test_what_cannot_be_exported_is_refused_with_cause_and_cure(copy: Path, why: str) -> None:
    spoil, error, message = REFUSED[why]
    spoil(copy)
    with pytest.raises(error, match=message):
        EmbedderCheckpoint.open(copy)


def test_an_activation_from_elsewhere_is_refused(checkpoint: Any) -> None:
    from sentence_transformers.sentence_transformer.modules import Dense

    folder = checkpoint(tail=[Dense(32, 16)])
    edit(folder / "2_Dense" / "config.json", activation_function="mine.Snake")
    with pytest.raises(UnsafeError, match=r"mine\.Snake"):
        EmbedderCheckpoint.open(folder)


def test_a_path_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a folder"):
        SentenceTransformersFolder.open(tmp_path / "nothing")


def test_the_facts_of_the_real_model(minilm: Path) -> None:
    """Its tokenizer.json truncates to 128 and pads to 128; the model reads 256."""
    opened = EmbedderCheckpoint.open(minilm)
    pipeline = opened.pipeline
    assert (pipeline.architecture, pipeline.pooling, pipeline.dimension) == ("BertModel", "mean", 384)
    assert (pipeline.max_tokens, pipeline.normalised, pipeline.pad_id) == (256, True, 0)
    assert pipeline.inputs == ("input_ids", "attention_mask", "token_type_ids")
    content = json.loads(opened.tokenizer_json)
    assert content["truncation"] is None
    assert content["padding"] is None


def test_prompts_and_matryoshka_dimensions(checkpoint: Any) -> None:
    folder = checkpoint(prompts={"query": "read: "}, default_prompt_name="query")
    (folder / "README.md").write_text(CARD)
    pipeline = EmbedderCheckpoint.open(folder).pipeline
    assert pipeline.prompts == {"query": "read: ", "document": ""}
    assert (pipeline.default_prompt, pipeline.dimensions) == ("query", (32, 16, 8))


CARD = '"loss": "MultipleNegatives",\n"matryoshka_dims": [32, 16, 8, 64],'
TWO = f'{CARD}\n"loss": "CoSENTLoss",\n"matryoshka_dims": [\n    16,\n    12\n],'


@pytest.mark.parametrize(
    ("card", "config", "named", "dimensions"),
    [
        (TWO, None, (), (32, 16, 12, 8)),
        ("", [24, 8, 512], (), (32, 24, 8)),
        (CARD, [24], (), (32, 24, 16, 8)),
        ("", "16", (), (32,)),
        (CARD, [24], (4,), (32, 4)),
    ],
)
def test_matryoshka_dimensions_come_from_every_loss_the_config_or_the_user(
    copy: Path, card: str, config: Any, named: tuple[int, ...], dimensions: tuple[int, ...]
) -> None:
    (copy / "README.md").write_text(card)
    edit(copy / "config.json", matryoshka_dimensions=config)
    opened = EmbedderCheckpoint.open(copy, dimensions=StatedDimensions(named))
    assert opened.pipeline.dimensions == dimensions


def test_a_given_truncate_dim_cuts_as_sentence_transformers_does(copy: Path) -> None:
    from sentence_transformers import SentenceTransformer

    opened = EmbedderCheckpoint.open(copy, dimensions=StatedDimensions(truncate_dim=12))
    assert (opened.pipeline.dimension, opened.pipeline.dimensions, opened.pipeline.normalised) == (12, (12,), False)
    theirs = SentenceTransformer(str(copy), device="cpu", truncate_dim=12).encode(["read the file"])
    np.testing.assert_allclose(opened.encode(["read the file"]), theirs, atol=1e-6)
    layout.copy(opened.folder, copy / "bundle", opened.tokenizer_json, 12)
    assert json.loads((copy / "bundle" / "config_sentence_transformers.json").read_text())["truncate_dim"] == 12


@pytest.mark.parametrize("stated", [StatedDimensions((64, 8)), StatedDimensions(truncate_dim=64)])
def test_dimensions_that_the_model_does_not_have_are_refused(copy: Path, stated: StatedDimensions) -> None:
    with pytest.raises(UsageError, match="64 is more than the 32 dimensions"):
        EmbedderCheckpoint.open(copy, dimensions=stated)


def test_a_prompt_that_is_not_pooled_is_counted_as_the_checkpoint_does(copy: Path, tmp_path: Path) -> None:
    edit(copy / "1_Pooling" / "config.json", include_prompt=False)
    edit(copy / "config_sentence_transformers.json", prompts={"query": "read: "})
    opened = EmbedderCheckpoint.open(copy)
    assert not opened.pipeline.pools_prompts
    (tmp_path / "tokenizer.json").write_text(opened.tokenizer_json)
    tokens = Tokenizer(tmp_path / "tokenizer.json", opened.pipeline)(["a file", ""], "read: ")
    assert tokens.turns == [3, 3], "[CLS] read :"
    assert opened.model.preprocess(["a file"], prompt="read: ")["prompt_length"] == 3


def test_the_weights_hash_follows_weights_and_settings(tiny: Path, copy: Path) -> None:
    before = EmbedderCheckpoint.open(tiny).source.weights_sha256
    edit(copy / "config.json", transformers_version="4.0.0")
    assert EmbedderCheckpoint.open(copy).source.weights_sha256 == before, "saving again changes no vector"
    edit(copy / "config.json", layer_norm_eps=1e-3)
    assert EmbedderCheckpoint.open(copy).source.weights_sha256 != before


def test_lowercasing_is_frozen_into_the_tokenizer_or_the_pipeline(tiny: Path, copy: Path) -> None:
    edit(copy / "sentence_bert_config.json", do_lower_case=True)
    opened = EmbedderCheckpoint.open(copy)
    assert opened.pipeline.lowercase != checkpoint_tokenizer.lowercases(opened.tokenizer_json)


@pytest.mark.parametrize("spoiled", ["max_tokens", "tokenizer"])
def test_a_tokenizer_that_disagrees_is_refused(tiny: Path, spoiled: str) -> None:
    import msgspec

    opened = EmbedderCheckpoint.open(tiny)
    pipeline, tokenizer = opened.pipeline, json.loads(opened.tokenizer_json)
    if spoiled == "max_tokens":
        pipeline = msgspec.structs.replace(pipeline, max_tokens=pipeline.max_tokens - 1)
    else:
        tokenizer["normalizer"]["lowercase"] = False
    with pytest.raises(UsageError, match="disagree on"):
        checkpoint_tokenizer.require_same_tokens(opened.model, pipeline, json.dumps(tokenizer))


def test_truncation_on_the_left_is_refused(copy: Path) -> None:
    edit(copy / "tokenizer_config.json", truncation_side="left")
    with pytest.raises(EmbedshipError, match="truncation_side is not left"):
        EmbedderCheckpoint.open(copy)
