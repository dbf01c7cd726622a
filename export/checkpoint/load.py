"""Loads the SentenceTransformer of a folder, so that it truncates and pads texts of any length."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from safetensors import SafetensorError

from embedship.errors import UsageError
from embedship.export.checkpoint import tokenizer
from embedship.export.checkpoint.folder import SentenceTransformersFolder
from embedship.export.checkpoint.forward import (
    REPEATED,
    known_length,
    position_limit,
    require_within,
    translate_model_errors,
)
from embedship.export.silence import no_progress_bars, silence

LOADING = (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError, SafetensorError)


def load(folder: SentenceTransformersFolder) -> Any:
    """Load the SentenceTransformer of a folder in float32 on the CPU. It truncates and pads texts of any length.

    Raises UsageError if it cannot be opened, is not supported, or if a weight is missing.
    """
    model = open_model(folder)
    with _loading(folder):
        _require_all_weights(folder, model[0])
    _refuse_unsupported(folder, model)
    tokenizer.add_pad_token(model.tokenizer, backbone(model[0]).config)
    with translate_model_errors(folder.path):
        model.max_seq_length = _max_tokens(folder, model)
    return model


def open_model(folder: SentenceTransformersFolder) -> Any:
    """Open the SentenceTransformer of a folder in float32 on the CPU. Raises UsageError if that fails."""
    import torch
    from sentence_transformers import SentenceTransformer

    with _loading(folder):
        model = SentenceTransformer(
            str(folder.path),
            device="cpu",
            local_files_only=True,
            trust_remote_code=folder.code is not None,
            model_kwargs={"dtype": torch.float32, "use_safetensors": True},
        )
    return model.eval()


@contextmanager
def _loading(folder: SentenceTransformersFolder) -> Iterator[None]:
    try:
        with silence(), no_progress_bars():
            yield
    except LOADING as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UsageError(f"{folder.path} cannot be opened by sentence-transformers: {reason[0]}") from error


def _require_all_weights(folder: SentenceTransformersFolder, transformer: Any) -> None:
    """Raise UsageError if a weight is missing: transformers would fill it with random numbers on both sides."""
    _, loading = type(backbone(transformer)).from_pretrained(
        str(folder.transformer), local_files_only=True, use_safetensors=True, output_loading_info=True
    )
    if missing := sorted(key for key in loading["missing_keys"] if not is_unused(key)):
        raise UsageError(
            f"{folder.path} lacks {len(missing)} weights that its config.json requires ({missing[0]}, ...): the model "
            "would run on random numbers. Save the checkpoint again with all its weights"
        )


def backbone(transformer: Any) -> Any:
    return transformer.model if hasattr(transformer, "model") else transformer.auto_model


def is_unused(key: str) -> bool:
    """Return True for BERT's pooler: it serves next-sentence prediction, and no sentence vector depends on it."""
    return key.startswith("pooler.")


def _refuse_unsupported(folder: SentenceTransformersFolder, model: Any) -> None:
    modalities = getattr(model[0], "modality_config", {"text": {"method_output_name": "last_hidden_state"}})
    output = modalities.get("text", {}).get("method_output_name")
    tail = list(model)[2:]
    refusals = {
        "does not pool the last hidden state of plain text": output != "last_hidden_state" or "message" in modalities,
        "expands its queries (ColBERT)": bool(getattr(model[0], "query_expansion", None)),
        "has a separate maximum length for queries or documents": any(
            getattr(model[0], name, None) is not None for name in ("query_length", "document_length")
        ),
        "rewrites token vectors after the transformer": any(
            getattr(m, key, "sentence_embedding") != "sentence_embedding"
            for m in tail
            for key in ("module_input_name", "module_output_name")
        ),
    }
    for problem, applies in refusals.items():
        if applies:
            raise UsageError(f"{folder.path} cannot be exported: the model {problem}, which is not supported yet")


def _max_tokens(folder: SentenceTransformersFolder, model: Any) -> int:
    """Return the longest input in tokens. A missing limit is reported by transformers as 1e30."""
    config, features = backbone(model[0]).config, model.preprocess([REPEATED])
    derived = known_length(getattr(config, "max_position_embeddings", None))
    limit = position_limit(features, lambda: model[0](dict(features))) or derived
    stated = known_length(model.max_seq_length) or limit
    if not stated:
        raise UsageError(
            f"{folder.path} does not state a maximum text length: set max_seq_length in sentence_bert_config.json"
        )
    return require_within(folder.path, stated, limit or stated, derived)
