"""Small random checkpoints of several shapes, made on the spot and saved as sentence-transformers saves them."""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from embedship.export.silence import ignoring

WORDS = ["the", "of", "read", "file", "word", "parse", "date", "a", "text"]
HIDDEN = 32
INSTRUCTION = "Parse: read the date of the text\nQuery: "
DEPRECATED = (FutureWarning, "`is_gradient_checkpointing` is deprecated")  # PEFT 0.21 with transformers 5.23

Make = Callable[..., Path]


def _vocabulary() -> list[str]:
    letters = list(string.ascii_lowercase + string.digits + string.punctuation)
    return ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *letters, *(f"##{letter}" for letter in letters)]


def _wordpiece(special: bool = True) -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    rust = Tokenizer(models.WordPiece({w: i for i, w in enumerate(dict.fromkeys(_vocabulary()))}, unk_token="[UNK]"))
    rust.normalizer = normalizers.BertNormalizer(lowercase=True)
    rust.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    if special:
        rust.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=rust, model_max_length=64, **names)


def _bert(tokenizer: Any) -> Any:
    from transformers import BertConfig, BertModel

    return BertModel(
        BertConfig(
            vocab_size=len(tokenizer), hidden_size=HIDDEN, num_hidden_layers=2, num_attention_heads=4,
            intermediate_size=64, max_position_embeddings=64, initializer_range=0.2,
        )
    )  # fmt: skip


def _qwen3(tokenizer: Any) -> Any:
    from transformers import Qwen3Config, Qwen3Model

    tokenizer.padding_side = "left"
    return Qwen3Model(
        Qwen3Config(
            vocab_size=len(tokenizer), hidden_size=HIDDEN, num_hidden_layers=2, num_attention_heads=4, head_dim=8,
            num_key_value_heads=2, intermediate_size=64, max_position_embeddings=64, initializer_range=0.2,
        )
    )  # fmt: skip


def _modernbert(tokenizer: Any) -> Any:
    from transformers import ModernBertConfig, ModernBertModel

    return ModernBertModel(
        ModernBertConfig(
            vocab_size=len(tokenizer), hidden_size=HIDDEN, num_hidden_layers=3, num_attention_heads=4,
            intermediate_size=64, max_position_embeddings=64, local_attention=8, initializer_range=0.2,
            pad_token_id=0, bos_token_id=2, eos_token_id=3, cls_token_id=2, sep_token_id=3,
        )
    )  # fmt: skip


BACKBONES = {"bert": _bert, "qwen3": _qwen3, "modernbert": _modernbert}


def edit(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file."""
    content = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**content, **changes}))


def tail() -> list[Any]:
    from sentence_transformers.sentence_transformer.modules import Normalize

    return [Normalize()]


def adapted(make: Make, place: Path, whole: bool, backbone: str = "bert", **lora: Any) -> Path:
    """A LoRA adapter with weights that matter; `whole`: beside modules.json, as sentence-transformers saves it."""
    import torch
    from peft import LoraConfig, PeftModel
    from sentence_transformers import SentenceTransformer

    pooling, names = ("mean", ["query", "value"]) if backbone == "bert" else ("lasttoken", ["q_proj", "v_proj"])
    base = make(backbone, pooling, tail=tail(), prompts={"query": INSTRUCTION})
    config = LoraConfig(
        r=4, lora_alpha=16, target_modules=names, lora_dropout=0.1, task_type="FEATURE_EXTRACTION", **lora
    )
    model, target = SentenceTransformer(str(base), device="cpu"), place / "adapter"
    inner = model[0].model
    inner.name_or_path = str(base.parent / "plain" if whole else base)  # which is written down as the base
    if whole:
        model.add_adapter(config)
    else:
        with ignoring(DEPRECATED):
            inner = PeftModel(inner, config)
    torch.manual_seed(1)
    for name, weight in inner.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    if whole:
        model.save_pretrained(str(target), create_model_card=False)
    else:
        inner.save_pretrained(str(target))
    return target


def base_of(folder: Path) -> str:
    return str(json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"])


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Make a checkpoint folder: checkpoint(backbone="bert", pooling="mean", tail=(), special=True, **model settings).

    Without `special` tokens an empty text has no token at all.
    """

    def make(
        backbone: str = "bert",
        pooling: str | tuple[str, ...] = "mean",
        tail: Sequence[Any] = (),
        special: bool = True,
        **settings: Any,
    ) -> Path:
        import torch
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

        folder = tmp_path_factory.mktemp("checkpoint")
        torch.manual_seed(0)
        tokenizer = _wordpiece(special)
        BACKBONES[backbone](tokenizer).eval().save_pretrained(folder / "plain")
        tokenizer.save_pretrained(folder / "plain")
        pooled = Pooling(HIDDEN, pooling_mode=pooling)
        model = SentenceTransformer(
            modules=[Transformer(str(folder / "plain")), pooled, *tail], device="cpu", **settings
        )
        model.save_pretrained(str(folder / "saved"), create_model_card=False)
        return folder / "saved"

    return make


@pytest.fixture(scope="session")
def tiny(checkpoint: Make) -> Path:
    """A BERT of two layers with mean pooling and Normalize."""
    from sentence_transformers.sentence_transformer.modules import Normalize

    return checkpoint(tail=[Normalize()])
