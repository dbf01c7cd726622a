"""A loaded cross-encoder: a query and a passage are read together, and one logit says how well they fit.

The folder is one of transformers (AutoModelForSequenceClassification), as sentence-transformers' CrossEncoder saves it
too. Its score here is the logit; a sigmoid over it, or none, is how the checkpoint shows the same thing.
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
from embedship.export.checkpoint.embedder import INPUTS, LOADING, PACKAGES, VOLATILE, versions_of
from embedship.export.checkpoint.folder import (
    CheckpointOrigin,
    PipelineModule,
    SentenceTransformersFolder,
    read,
    refuse_newer,
)
from embedship.export.silence import no_progress_bars, silence
from embedship.tokens import Text

_ARCHITECTURE = "ForSequenceClassification"
# What sentence-transformers may put over the logit, neither of which changes an order.
_ACTIVATIONS = ("Sigmoid", "Identity")
# Their positions begin behind that of the padding token.
_OFFSET = ("roberta", "xlm-roberta", "camembert")
_BATCH = 16


@dataclass(frozen=True, slots=True, eq=False)
class CrossEncoderCheckpoint:
    """`model` is the transformers model in float32 on the CPU; `tokenizer_json` has no truncation and no padding."""

    folder: SentenceTransformersFolder
    model: Any
    tokenizer: Any
    pipeline: ModelSpec
    source: ModelSource
    tokenizer_json: str

    @classmethod
    def open(cls, folder: SentenceTransformersFolder, name: str | None = None) -> Self:
        """Load a folder that `folder_of` has looked at, offline.

        Raises UsageError, with cause and cure, for all that cannot be exported faithfully.
        """
        model, tokenizer = _load(folder.path)
        tokenizer_json = checkpoint_tokenizer.freeze_tokenizer(folder.path, tokenizer)
        pipeline = _pipeline(folder.path, model, tokenizer)
        probe_pairs.require_same_tokens(tokenizer, pipeline, tokenizer_json)
        described = ModelSource(
            name=name or folder.origin.name,
            weights_sha256=_weights_sha256(folder.path, model),
            versions=versions_of(PACKAGES),
            revision=folder.origin.revision,
        )
        return cls(folder, model, tokenizer, pipeline, described, tokenizer_json)

    @property
    def transformer(self) -> Any:
        return self.model

    def features(self, texts: Sequence[Text]) -> dict[str, Any]:
        """Cut as the checkpoint cuts: the longer of the two first."""
        queries, passages = ([pair[side] for pair in texts] for side in (0, 1))
        given = self.tokenizer(
            queries, passages, padding=True, truncation=True, max_length=self.pipeline.max_tokens, return_tensors="pt"
        )
        return {name: given[name] for name in self.pipeline.inputs}

    def encode(self, texts: Sequence[Text]) -> Vectors:
        """The checkpoint's own (n, 1) float32 logits, as transformers computes them."""
        import torch

        order = sorted(range(len(texts)), key=lambda row: len("".join(texts[row])))
        scores = np.empty((len(texts), 1), dtype=np.float32)
        with torch.no_grad():
            for rows in (order[at : at + _BATCH] for at in range(0, len(order), _BATCH)):
                logits = self.model(**self.features([texts[row] for row in rows])).logits
                scores[rows] = logits.to(torch.float32).numpy()
        return scores


def folder_of(path: Path, origin: CheckpointOrigin) -> SentenceTransformersFolder:
    """The folder of a cross-encoder, looked at and not opened. Raises UsageError and UnsafeError."""
    if not (path / "config.json").is_file():
        raise UsageError(f"{path} has no config.json: give the folder that CrossEncoder.save_pretrained wrote")
    config = read(path / "config.json")
    names = [str(name) for name in config.get("architectures") or ["none"]]
    if not names[0].endswith(_ARCHITECTURE):
        raise UsageError(
            f"{path} is a {names[0]}, and --task rerank needs a cross-encoder (...{_ARCHITECTURE} with one label): "
            "leave --task out for a model that gives a vector a text"
        )
    _refuse_code(path)
    _refuse_settings(path, config)
    folder = SentenceTransformersFolder(path, (PipelineModule("Transformer", path),), origin)
    refuse_newer(folder)
    trust.refuse_pickles(path)
    if not any(path.glob("*.safetensors")):
        raise UsageError(f"{path} has no weights (*.safetensors): this is not a complete checkpoint")
    return folder


def _refuse_code(path: Path) -> None:
    for name in ("config.json", "tokenizer_config.json"):
        if (path / name).is_file() and read(path / name).get("auto_map") is not None:
            raise UnsafeError(f"{path / name} asks for remote code (auto_map), and code that comes with a re-ranker is "
                              "not run here: use a model that transformers itself implements")  # fmt: skip


def _refuse_settings(path: Path, config: dict[str, Any]) -> None:
    labels = config.get("num_labels") or len(config.get("id2label") or [0, 1])
    if labels != 1:
        raise UsageError(f"{path} gives {labels} logits, and a score is one: train it with num_labels=1")
    extra = path / "config_sentence_transformers.json"
    saved = read(extra) if extra.is_file() else {}
    if any((saved.get("prompts") or {}).values()):
        raise UsageError(f"{path} puts prompts before its texts, which no client of a re-ranker sends: not supported")
    inner = config.get("sentence_transformers") or {}
    named = (
        inner.get("activation_fn") or config.get("sbert_ce_default_activation_function") or saved.get("activation_fn")
    )
    if named and str(named).rpartition(".")[2] not in _ACTIVATIONS:
        raise UsageError(f"{path} puts {named} over its logit; only {' and '.join(_ACTIVATIONS)} keep the order")


def _load(path: Path) -> tuple[Any, Any]:
    """The model and its tokenizer, with every weight found; transformers fills what is missing with random numbers."""
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
            f"{path} lacks {len(missing)} of the weights of a {type(model).__name__} ({missing[0]}, ...): "
            "its scores would come from random numbers"
        )
    return model.eval(), tokenizer


def _pipeline(path: Path, model: Any, tokenizer: Any) -> ModelSpec:
    given = tokenizer("a", "b")
    taken = inspect.signature(model.forward).parameters
    inputs = tuple(name for name in INPUTS if name in given and name in taken)
    if inputs[:2] != INPUTS[:2]:
        raise UsageError(f"{type(model).__name__}.forward takes no {' and '.join(INPUTS[:2])}")
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
    config = model.config
    positions = getattr(config, "max_position_embeddings", None) or 0
    if config.model_type in _OFFSET:
        positions -= config.pad_token_id + 1
    known = [int(n) for n in (tokenizer.model_max_length, positions) if n and 0 < n < 10**7]
    if not known:
        raise UsageError(f"{path} does not say how long a pair may be: set model_max_length in tokenizer_config.json")
    return min(known)


def _weights_sha256(path: Path, model: Any) -> str:
    """Over name, type, shape and bytes of every float32 weight, and the settings: an epsilon lies in no weight."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    settings = {key: value for key, value in read(path / "config.json").items() if key not in VOLATILE}
    digest.update(json.dumps(settings, sort_keys=True).encode())
    return digest.hexdigest()
