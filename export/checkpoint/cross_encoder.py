"""CrossEncoderCheckpoint: a model that reads a query and a passage together and returns one logit per pair.

The folder is a transformers folder (AutoModelForSequenceClassification), which sentence-transformers' CrossEncoder
also writes. The score is the logit itself. A checkpoint may apply a sigmoid to it, which keeps the order.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from embedship.bundle import ModelSource, ModelSpec, Similarity, Task
from embedship.codes import Vectors
from embedship.errors import UnsafeError, UsageError
from embedship.export import probe_pairs
from embedship.export.checkpoint import tokenizer as checkpoint_tokenizer
from embedship.export.checkpoint import trust
from embedship.export.checkpoint.embedder import INPUTS, PACKAGES, VOLATILE, versions_of
from embedship.export.checkpoint.folder import (
    CheckpointOrigin,
    PipelineModule,
    SentenceTransformersFolder,
    read,
    refuse_newer,
)
from embedship.export.checkpoint.forward import (
    REPEATED,
    known_length,
    position_limit,
    require_within,
    translate_model_errors,
)
from embedship.export.checkpoint.load import LOADING
from embedship.export.silence import no_progress_bars, silence
from embedship.tokens import Text

_ARCHITECTURE = "ForSequenceClassification"
# Activations that sentence-transformers may apply to the logit. Neither changes the order.
_ACTIVATIONS = ("Sigmoid", "Identity")
_BATCH = 16


@dataclass(frozen=True, slots=True, eq=False)
class CrossEncoderCheckpoint:
    """A checkpoint that scores pairs.

    `model` is the transformers model in float32 on the CPU. `tokenizer_json` has no truncation and no padding.
    """

    folder: SentenceTransformersFolder
    model: Any
    tokenizer: Any
    pipeline: ModelSpec
    source: ModelSource
    tokenizer_json: str

    @classmethod
    def open(cls, folder: SentenceTransformersFolder, name: str | None = None) -> Self:
        """Load a folder that `folder_of` has checked, offline.

        Raises UsageError, which says why and what to do, if the checkpoint cannot be exported exactly.
        """
        model, tokenizer = _load(folder.path)
        tokenizer_json = checkpoint_tokenizer.freeze_tokenizer(folder.path, tokenizer)
        checkpoint_tokenizer.add_pad_token(tokenizer, model.config)
        with translate_model_errors(folder.path):
            pipeline = _pipeline(folder.path, model, tokenizer)
            probe_pairs.require_same_tokens(tokenizer, pipeline, tokenizer_json)
        model_source = ModelSource(
            name=name or folder.origin.name,
            weights_sha256=_weights_sha256(folder.path, model),
            versions=versions_of(PACKAGES),
            revision=folder.origin.revision,
        )
        return cls(folder, model, tokenizer, pipeline, model_source, tokenizer_json)

    @property
    def padding_side(self) -> str:
        return str(self.tokenizer.padding_side)

    @property
    def transformer(self) -> Any:
        return self.model

    def features(self, texts: Sequence[Text]) -> dict[str, Any]:
        """Return the graph's inputs, truncated as the checkpoint truncates: the longer of the two texts first."""
        queries, passages = ([pair[side] for pair in texts] for side in (0, 1))
        limits = {"truncation": True, "max_length": self.pipeline.max_tokens}
        with translate_model_errors(self.folder.path):
            features = self.tokenizer(queries, passages, padding=True, return_tensors="pt", **limits)
        return {name: features[name] for name in self.pipeline.inputs}

    def encode(self, texts: Sequence[Text]) -> Vectors:
        """Return the checkpoint's own (n, 1) float32 logits, as transformers computes them."""
        import torch

        order = sorted(range(len(texts)), key=lambda row: len("".join(texts[row])))
        scores = np.empty((len(texts), 1), dtype=np.float32)
        with translate_model_errors(self.folder.path), torch.no_grad():
            for rows in (order[at : at + _BATCH] for at in range(0, len(order), _BATCH)):
                logits = self.model(**self.features([texts[row] for row in rows])).logits
                scores[rows] = logits.to(torch.float32).numpy()
        return scores


def folder_of(path: Path, origin: CheckpointOrigin) -> SentenceTransformersFolder:
    """Check the folder of a cross-encoder without loading it. Raises UsageError and UnsafeError."""
    if not (path / "config.json").is_file():
        raise UsageError(f"{path} has no config.json: name the folder that CrossEncoder.save_pretrained wrote")
    config = read(path / "config.json")
    names = [str(name) for name in config.get("architectures") or ["none"]]
    if not names[0].endswith(_ARCHITECTURE):
        raise UsageError(
            f"{path} is a {names[0]}, and --task rerank needs a cross-encoder (...{_ARCHITECTURE} with one label): "
            "leave --task out for a model that computes one vector per text"
        )
    _refuse_code(path)
    _refuse_settings(path, config)
    folder = SentenceTransformersFolder(path, (PipelineModule("Transformer", path),), origin)
    refuse_newer(folder)
    trust.refuse_pickles(path)
    if not any(path.glob("*.safetensors")):
        raise UsageError(f"{path} has no weights (*.safetensors): this is not a complete checkpoint")
    return folder


def is_cross_encoder(path: Path) -> bool:
    """Return whether the folder has a classification head and no pooling: it has no vector per text."""
    if not (path / "config.json").is_file():
        return False
    names = read(path / "config.json").get("architectures") or ["none"]
    listing = path / "modules.json"
    return str(names[0]).endswith(_ARCHITECTURE) and not (listing.is_file() and "Pooling" in listing.read_text("utf-8"))


def _refuse_code(path: Path) -> None:
    for name in ("config.json", "tokenizer_config.json"):
        if (path / name).is_file() and read(path / name).get("auto_map") is not None:
            raise UnsafeError(f"{path / name} needs remote code (auto_map), and a re-ranker's own code is not run: use "
                              "a model that transformers itself implements")  # fmt: skip


def _refuse_settings(path: Path, config: dict[str, Any]) -> None:
    labels = config.get("num_labels") or len(config.get("id2label") or [0, 1])
    if labels != 1:
        raise UsageError(f"{path} returns {labels} logits, but a score is one logit: train it with num_labels=1")
    extra = path / "config_sentence_transformers.json"
    saved = read(extra) if extra.is_file() else {}
    if any((saved.get("prompts") or {}).values()):
        raise UsageError(
            f"{path} adds prompts to its texts: this is not supported, because clients of a re-ranker send no prompts"
        )
    inner = config.get("sentence_transformers") or {}
    activation = (
        inner.get("activation_fn") or config.get("sbert_ce_default_activation_function") or saved.get("activation_fn")
    )
    if activation and str(activation).rpartition(".")[2] not in _ACTIVATIONS:
        raise UsageError(f"{path} applies {activation} to its logit; only {' and '.join(_ACTIVATIONS)} keep the order")


def _load(path: Path) -> tuple[Any, Any]:
    """Load the model and its tokenizer. Raises UsageError for missing weights, which transformers would randomise."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    try:
        with silence(), no_progress_bars():
            model, loading = AutoModelForSequenceClassification.from_pretrained(
                str(path), local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
            )
            tokenizer = AutoTokenizer.from_pretrained(str(path), local_files_only=True)
    except LOADING as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UsageError(f"{path} cannot be opened by transformers: {reason[0]}") from error
    if missing := sorted(loading["missing_keys"]):
        raise UsageError(
            f"{path} lacks {len(missing)} weights of a {type(model).__name__} ({missing[0]}, ...): "
            "its scores would come from random numbers. Save the checkpoint again with all its weights"
        )
    return model.eval(), tokenizer


def _pipeline(path: Path, model: Any, tokenizer: Any) -> ModelSpec:
    features = tokenizer("a", "b")
    accepted = inspect.signature(model.forward).parameters
    inputs = tuple(name for name in INPUTS if name in features and name in accepted)
    if inputs[:2] != INPUTS[:2]:
        raise UsageError(f"{type(model).__name__}.forward does not accept {' and '.join(INPUTS[:2])}")
    return ModelSpec(
        architecture=type(model).__name__,
        pooling="none",
        dimension=1,
        dimensions=(1,),
        max_tokens=_max_tokens(path, model, tokenizer),
        lowercase=False,
        normalised=False,
        similarity=Similarity.DOT,
        prompts={},
        default_prompt=None,
        inputs=inputs,
        pad_id=int(tokenizer.pad_token_id or 0),
        task=Task.RERANK,
    )


def _max_tokens(path: Path, model: Any, tokenizer: Any) -> int:
    features = tokenizer(["a"], [REPEATED], return_tensors="pt")
    accepted = inspect.signature(model.forward).parameters
    derived = known_length(getattr(model.config, "max_position_embeddings", None))
    inputs = {name: features[name] for name in INPUTS if name in features and name in accepted}
    limit = position_limit(features, lambda: model(**inputs)) or derived
    settings = path / "sentence_bert_config.json"
    if settings.is_file() and (saved := known_length(read(settings).get("max_seq_length"))):
        return require_within(path, saved, limit or saved, derived)
    stated = known_length(tokenizer.model_max_length) or limit
    if not stated:
        raise UsageError(f"{path} does not state a maximum pair length: set model_max_length in tokenizer_config.json")
    return min(stated, limit or stated)


def _weights_sha256(path: Path, model: Any) -> str:
    """Hash the name, type, shape and bytes of every weight, and the settings, such as epsilons, that change scores."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    settings = {key: value for key, value in read(path / "config.json").items() if key not in VOLATILE}
    digest.update(json.dumps(settings, sort_keys=True).encode())
    return digest.hexdigest()
