"""A loaded checkpoint: its own vectors, the facts of its pipeline, and the tokenizer it really uses, frozen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any, Self

import numpy as np
from safetensors import SafetensorError

from embedship.bundle import ModelSource, ModelSpec, Similarity
from embedship.codes import Vectors
from embedship.distributions import installed_version
from embedship.errors import UsageError
from embedship.export.checkpoint import tokenizer
from embedship.export.checkpoint.folder import SentenceTransformersFolder
from embedship.export.checkpoint.protocol import SourceModel
from embedship.export.silence import no_progress_bars, silence
from embedship.tokens import Text

PACKAGES = (
    "torch",
    "transformers",
    "sentence-transformers",
    "onnx",
    "onnxruntime",
    "openvino",
    "nncf",
    "tokenizers",
    "numpy",
    "safetensors",
)
_UNCUT = 2**31
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
# What saving a model again changes without changing a vector.
VOLATILE = {"transformers_version", "_name_or_path", "torch_dtype", "dtype", "architectures", "use_cache"}
LOADING = (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError, SafetensorError)


@dataclass(frozen=True, slots=True, eq=False)
class EmbedderCheckpoint:
    """`model` is the SentenceTransformer in float32 on the CPU; `tokenizer_json` has no truncation and no padding."""

    folder: SentenceTransformersFolder
    model: Any
    pipeline: ModelSpec
    source: ModelSource
    tokenizer_json: str

    @classmethod
    def open(
        cls, source: SentenceTransformersFolder | Path | str, name: str | None = None, also: Sequence[str] = ()
    ) -> Self:
        """Load a sentence-transformers folder, offline; `name` is what it is called (default: `folder.model_name`).

        `also` names packages that will have a hand in the export, besides those that always have.

        Raises UsageError or UnsafeError, with cause and cure, for all that cannot be exported faithfully.
        """
        folder = source if isinstance(source, SentenceTransformersFolder) else SentenceTransformersFolder.open(source)
        model = load(folder)
        _refuse_unsupported(folder, model)
        tokenizer_json = tokenizer.freeze_tokenizer(folder.path, model.tokenizer)
        pipeline = _pipeline(folder, model, tokenizer_json)
        tokenizer.require_same_tokens(model, pipeline, tokenizer_json)
        merged = ("peft",) if folder.origin.merge else ()
        described = ModelSource(
            name=name or folder.origin.name,
            weights_sha256=_weights_sha256(folder, model),
            versions=versions_of((*PACKAGES, *merged, *also)),
            revision=folder.origin.revision,
            merge=folder.origin.merge,
            code_sha256=folder.code,
            left_out=folder.left_out,
        )
        return cls(folder, model, pipeline, described, tokenizer_json)

    def encode(self, texts: Sequence[Text], prompt: str = "") -> Vectors:
        """The checkpoint's own (n, dim) float32 vectors, as sentence-transformers computes them."""
        vectors = self.model.encode(list(texts), prompt=prompt, show_progress_bar=False, convert_to_numpy=True)
        return np.asarray(vectors, dtype=np.float32)

    def features(self, texts: Sequence[Text]) -> dict[str, Any]:
        """The inputs of the graph, as sentence-transformers makes them."""
        given = self.model.preprocess(list(texts))
        return {name: given[name] for name in self.pipeline.inputs}

    @property
    def transformer(self) -> Any:
        return _backbone(self.model[0])

    @property
    def pooling_modes(self) -> tuple[str, ...]:
        return _pooling_modes(self.model[1])


def versions_of(packages: Sequence[str]) -> dict[str, str]:
    """The versions of embedship and of those packages that are installed: a GPU machine need not have OpenVINO."""
    found = {}
    for package in ("embedship", *packages):
        with suppress(PackageNotFoundError):
            found[package] = installed_version(package)
    return found


def embedding(original: SourceModel) -> EmbedderCheckpoint:
    """Where only a model that embeds will do: what the command lets through is one."""
    assert isinstance(original, EmbedderCheckpoint), "of a re-ranker nobody asks for vectors"
    return original


def load(folder: SentenceTransformersFolder) -> Any:
    """The SentenceTransformer of a folder, in float32 on the CPU, with every weight found.

    Raises UsageError if it cannot be opened or is incomplete.
    """
    import torch
    from sentence_transformers import SentenceTransformer

    kwargs = {"dtype": torch.float32, "use_safetensors": True}
    try:
        with silence(), no_progress_bars():
            model = SentenceTransformer(
                str(folder.path),
                device="cpu",
                local_files_only=True,
                trust_remote_code=folder.code is not None,
                model_kwargs=kwargs,
            )
            _require_all_weights(folder, model[0])
    except LOADING as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UsageError(f"{folder.path} cannot be opened by sentence-transformers: {reason[0]}") from error
    return model.eval()


def _require_all_weights(folder: SentenceTransformersFolder, transformer: Any) -> None:
    """transformers fills what it does not find with random numbers; both sides of the gate would share them."""
    _, loading = type(_backbone(transformer)).from_pretrained(
        str(folder.transformer), local_files_only=True, use_safetensors=True, output_loading_info=True
    )
    if missing := sorted(key for key in loading["missing_keys"] if not _is_unused(key)):
        raise UsageError(
            f"{folder.path} lacks {len(missing)} of the weights its config.json asks for ({missing[0]}, ...): "
            "the model would run on random numbers"
        )


def _backbone(transformer: Any) -> Any:
    return transformer.model if hasattr(transformer, "model") else transformer.auto_model


def _is_unused(key: str) -> bool:
    """BERT's pooler belongs to next-sentence prediction; no sentence vector goes through it."""
    return key.startswith("pooler.")


def _refuse_unsupported(folder: SentenceTransformersFolder, model: Any) -> None:
    modalities = getattr(model[0], "modality_config", {"text": {"method_output_name": "last_hidden_state"}})
    output = modalities.get("text", {}).get("method_output_name")
    pooling, tail = model[1], list(model)[2:]
    refusals = {
        "does not pool the last hidden state of plain text": output != "last_hidden_state" or "message" in modalities,
        "expands its queries (ColBERT)": bool(getattr(model[0], "query_expansion", None)),
        "has another maximum length for queries or documents": any(
            getattr(model[0], name, None) is not None for name in ("query_length", "document_length")
        ),
        "leaves its prompts out of the pooling (include_prompt=False), and the graph would need one more input for it, "
        "which no other tool that opens a bundle gives": not pooling.include_prompt and any(model.prompts.values()),
        "rewrites token vectors after the transformer": any(
            getattr(m, key, "sentence_embedding") != "sentence_embedding"
            for m in tail
            for key in ("module_input_name", "module_output_name")
        ),
    }
    for what, applies in refusals.items():
        if applies:
            raise UsageError(f"{folder.path} cannot be exported yet: it {what}")


def _pipeline(folder: SentenceTransformersFolder, model: Any, tokenizer_json: str) -> ModelSpec:
    dimension = _width(model)
    kinds = [type(module).__name__ for module in model if type(module).__name__ != "Dropout"]
    return ModelSpec(
        architecture=type(_backbone(model[0])).__name__,
        pooling="+".join(_pooling_modes(model[1])),
        dimension=dimension,
        dimensions=folder.matryoshka(dimension),
        max_tokens=_max_tokens(folder, model),
        lowercase=folder.lowercase and not tokenizer.lowercases(tokenizer_json),
        normalised=kinds[-1] == "Normalize" and not cuts(model),
        similarity=_similarity(folder, model),
        prompts={name: text or "" for name, text in model.prompts.items()},
        default_prompt=model.default_prompt_name,
        inputs=_inputs(model),
        pad_id=int(model.tokenizer.pad_token_id or 0),
    )


def cuts(model: Any) -> bool:
    """Whether a saved truncate_dim shortens the vectors; sentence-transformers does not renormalise them then."""
    return model.truncate_dim is not None and _width(model) < _width(model, truncate_dim=_UNCUT)


def _width(model: Any, **how: Any) -> int:
    return int(model.encode(["dimension"], prompt="", show_progress_bar=False, **how).shape[1])


def _similarity(folder: SentenceTransformersFolder, model: Any) -> Similarity:
    try:
        return Similarity(model.similarity_fn_name or Similarity.COSINE)
    except ValueError:
        raise UsageError(
            f"{folder.path} was trained for {model.similarity_fn_name} distance; only cosine and dot can be served"
        ) from None


def _pooling_modes(pooling: Any) -> tuple[str, ...]:
    modes = pooling.pooling_mode
    return (modes,) if isinstance(modes, str) else tuple(modes)


def _max_tokens(folder: SentenceTransformersFolder, model: Any) -> int:
    """transformers says 1e30 where nobody set a limit."""
    positions = getattr(_backbone(model[0]).config, "max_position_embeddings", None)
    known = [int(n) for n in (model.max_seq_length, positions) if n and 0 < n < 10**7]
    if not known:
        raise UsageError(
            f"{folder.path} does not say how long a text may be: set max_seq_length in sentence_bert_config.json"
        )
    return min(known)


def _inputs(model: Any) -> tuple[str, ...]:
    """What the tokenizer gives and the model takes: ModernBERT refuses token types that a BERT tokenizer makes."""
    import inspect

    given = model.preprocess(["a"])
    taken = inspect.signature(_backbone(model[0]).forward).parameters
    names = tuple(name for name in INPUTS if name in given and name in taken)
    if names[:2] != INPUTS[:2]:
        raise UsageError(f"{type(_backbone(model[0])).__name__}.forward takes no {' and '.join(INPUTS[:2])}")
    return names


def _weights_sha256(folder: SentenceTransformersFolder, model: Any) -> str:
    """Over name, type, shape and bytes of every float32 weight in use, and over the settings of each module.

    The settings too: an activation, an epsilon or a rope_theta changes vectors and lies in no weight.
    """
    digest = hashlib.sha256()
    for place, module in enumerate(model):
        weights = (_backbone(module) if place == 0 else module).state_dict()
        for name, tensor in sorted(weights.items()):
            if not (place == 0 and _is_unused(name)):
                digest.update(f"{place}.{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
                digest.update(tensor.contiguous().numpy().tobytes())
    for place, module in enumerate(folder.modules):
        settings = {key: value for key, value in module.config.items() if key not in VOLATILE}
        digest.update(f"{place}.{module.kind} {json.dumps(settings, sort_keys=True)}\n".encode())
    if folder.code:
        digest.update(f"code {folder.code}\n".encode())
    return digest.hexdigest()
