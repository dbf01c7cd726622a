from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from embedship.bundle import Task
from embedship.commands import main
from embedship.errors import UsageError
from embedship.export.checkpoint.cross_encoder import CrossEncoderCheckpoint
from embedship.export.checkpoint.embedder import EmbedderCheckpoint
from embedship.export.checkpoint.open import OpenOptions, open_checkpoint

from ..conftest import Make, adapted, edit

LONG = "word " * 99


@pytest.mark.parametrize(("backbone", "limit"), [("roberta", 40 - 1 - 1), ("gpt2", 64), ("opt", 64), ("bert", 64)])
def test_a_text_may_be_as_long_as_the_positions_of_the_module(checkpoint: Make, backbone: str, limit: int) -> None:
    opened = EmbedderCheckpoint.open(checkpoint(backbone))
    assert opened.pipeline.max_tokens == limit
    assert opened.features([LONG])["input_ids"].shape == (1, limit)
    assert opened.encode([LONG, "a"]).shape == (2, 32)


def test_a_plain_folder_too(checkpoint: Make) -> None:
    folder = checkpoint("roberta").parent / "plain"
    with open_checkpoint(folder, OpenOptions(pooling="mean")) as source:
        assert EmbedderCheckpoint.open(source).pipeline.max_tokens == 38


def test_a_stated_length_beyond_the_positions_is_refused_with_both_numbers(checkpoint: Make) -> None:
    folder = checkpoint()
    edit(folder / "sentence_bert_config.json", max_seq_length=512)
    with pytest.raises(UsageError, match=r"states a maximum text length of 512 tokens.*has 64 positions: set max_seq"):
        EmbedderCheckpoint.open(folder)
    edit(folder / "sentence_bert_config.json", max_seq_length=16)
    assert EmbedderCheckpoint.open(folder).pipeline.max_tokens == 16


def roberta(place: Path, labels: int = 1) -> Path:
    from transformers import RobertaConfig, RobertaForSequenceClassification

    from ..conftest import wordpiece

    tokenizer = wordpiece()
    tokenizer.model_max_length = int(1e30)
    config = RobertaConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=40, pad_token_id=1, num_labels=labels,
    )  # fmt: skip
    RobertaForSequenceClassification(config).eval().save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


def gpt2(place: Path) -> Path:
    """No padding token, and a head that looks for one."""
    from transformers import GPT2Config, GPT2ForSequenceClassification

    from ..conftest import wordpiece

    tokenizer = wordpiece()
    tokenizer.pad_token = None
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=64, n_embd=32, n_layer=1, n_head=2, num_labels=1)
    GPT2ForSequenceClassification(config).eval().save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


def opened_pairs(folder: Path) -> CrossEncoderCheckpoint:
    with open_checkpoint(folder, OpenOptions(task=Task.RERANK)) as source:
        return CrossEncoderCheckpoint.open(source)


def test_cross_encoders_too(tmp_path: Path) -> None:
    opened = opened_pairs(roberta(tmp_path / "model"))
    assert opened.pipeline.max_tokens == 38
    assert opened.encode([("read", LONG), (LONG, LONG)]).shape == (2, 1)


def test_a_cross_encoder_follows_what_sentence_transformers_saved(tmp_path: Path) -> None:
    folder = roberta(tmp_path / "model")
    edit(folder / "sentence_bert_config.json", max_seq_length=16)
    assert opened_pairs(folder).pipeline.max_tokens == 16
    edit(folder / "sentence_bert_config.json", max_seq_length=512)
    with pytest.raises(UsageError, match=r"maximum text length of 512 tokens.*has 38 positions"):
        opened_pairs(folder)


def test_an_error_of_a_cross_encoders_forward_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = gpt2(tmp_path / "model")
    arguments = ["export", str(folder), "--task", "rerank", "--out", str(tmp_path / "bundle"), "--json"]
    assert main.run(arguments) == 2
    sentence = json.loads(capsys.readouterr().out)["error"]
    assert "the model's own code fails on a text (ValueError: Cannot handle batch sizes > 1" in sentence
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("error", [IndexError("index out of range in self"), RuntimeError("shapes\nsecond line")])
def test_any_error_of_the_models_forward_is_a_sentence(
    checkpoint: Make, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = EmbedderCheckpoint.open(checkpoint())

    def fails(*_: Any, **__: Any) -> None:
        raise error

    calls: list[Callable[[], object]] = [lambda: opened.encode(["a"])]
    monkeypatch.setattr(opened.transformer, "forward", fails)
    for call in calls:
        with pytest.raises(UsageError, match=rf"opens, but.*{type(error).__name__}: {str(error).splitlines()[0]}\)"):
            call()


def test_a_tokenizer_without_a_padding_token_pads_under_the_mask(checkpoint: Make) -> None:
    """sentence-transformers itself encodes nothing with it, not even one text: one has to be set by hand."""
    from embedship.codes import cosine

    opened = EmbedderCheckpoint.open(checkpoint("gpt2", "lasttoken"))
    assert opened.pipeline.pad_id == opened.model.tokenizer.unk_token_id, "it has no token that ends a text"
    together = opened.encode(["read", "a text of the file"])
    opened.model.tokenizer.pad_token = "the"
    assert cosine(together, opened.encode(["read", "a text of the file"])).min() > 0.99999


def test_an_adapter_is_merged_with_texts_beyond_the_positions_of_its_base(checkpoint: Make, tmp_path: Path) -> None:
    folder = adapted(checkpoint, tmp_path, whole=True, backbone="roberta")
    with open_checkpoint(folder, OpenOptions()) as source:
        assert EmbedderCheckpoint.open(source).pipeline.max_tokens == 38
