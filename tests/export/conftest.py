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


def wordpiece(special: bool = True) -> Any:
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


def _roberta(tokenizer: Any) -> Any:
    """40 rows of positions, of which the first two are none; nothing states a maximum length."""
    from transformers import RobertaConfig, RobertaModel

    tokenizer.model_max_length = int(1e30)
    return RobertaModel(
        RobertaConfig(
            vocab_size=len(tokenizer), hidden_size=HIDDEN, num_hidden_layers=2, num_attention_heads=4,
            intermediate_size=64, max_position_embeddings=40, pad_token_id=1, initializer_range=0.2,
        )
    )  # fmt: skip


def _gpt2(tokenizer: Any) -> Any:
    """Its tokenizer has no padding token."""
    from transformers import GPT2Config, GPT2Model

    tokenizer.pad_token = None
    return GPT2Model(
        GPT2Config(vocab_size=len(tokenizer), n_positions=64, n_embd=HIDDEN, n_layer=2, n_head=4, initializer_range=0.2)
    )


def _opt(tokenizer: Any) -> Any:
    from transformers import OPTConfig, OPTModel

    return OPTModel(
        OPTConfig(
            vocab_size=len(tokenizer), hidden_size=HIDDEN, word_embed_proj_dim=HIDDEN, num_hidden_layers=2,
            num_attention_heads=4, ffn_dim=64, max_position_embeddings=64, init_std=0.2, pad_token_id=0,
        )
    )  # fmt: skip


def _gemma3(tokenizer: Any) -> Any:
    """EmbeddingGemma's kind: both directions, by mask functions of the model's own."""
    from transformers import Gemma3TextConfig, Gemma3TextModel

    return Gemma3TextModel(
        Gemma3TextConfig(
            vocab_size=len(tokenizer), hidden_size=HIDDEN, num_hidden_layers=2, num_attention_heads=4, head_dim=8,
            num_key_value_heads=2, intermediate_size=64, max_position_embeddings=64, initializer_range=0.2,
            use_bidirectional_attention=True, sliding_window=8, layer_types=["sliding_attention", "full_attention"],
        )
    )  # fmt: skip


def _deberta(tokenizer: Any) -> Any:
    """Relative positions, which the graph multiplies with weights whatever the text is."""
    from transformers import DebertaV2Config, DebertaV2Model

    return DebertaV2Model(
        DebertaV2Config(
            vocab_size=len(tokenizer), hidden_size=HIDDEN, num_hidden_layers=2, num_attention_heads=4,
            intermediate_size=64, max_position_embeddings=64, initializer_range=0.2, relative_attention=True,
            pos_att_type=["p2c", "c2p"], position_biased_input=False, position_buckets=16,
        )
    )  # fmt: skip


def _phi(tokenizer: Any) -> Any:
    from transformers import PhiConfig, PhiModel

    return PhiModel(
        PhiConfig(
            vocab_size=len(tokenizer), hidden_size=HIDDEN, num_hidden_layers=2, num_attention_heads=4,
            intermediate_size=64, max_position_embeddings=64, initializer_range=0.2,
        )
    )  # fmt: skip


BACKBONES = {
    "bert": _bert, "qwen3": _qwen3, "modernbert": _modernbert, "roberta": _roberta, "gpt2": _gpt2, "opt": _opt,
    "gemma3": _gemma3, "deberta": _deberta, "phi": _phi,
}  # fmt: skip


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

    pooling, names = ("mean", ["query", "value"]) if "bert" in backbone else ("lasttoken", ["q_proj", "v_proj"])
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
        tokenizer = wordpiece(special)
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
