"""EmbedderCheckpoint: a loaded sentence-transformers model with its vectors, its ModelSpec and its frozen tokenizer."""

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

from embedship.bundle import ModelSource, ModelSpec, Similarity
from embedship.codes import Vectors
from embedship.distributions import installed_version
from embedship.errors import UsageError
from embedship.export.checkpoint import tokenizer
from embedship.export.checkpoint.dimensions import StatedDimensions, cuts
from embedship.export.checkpoint.folder import SentenceTransformersFolder
from embedship.export.checkpoint.forward import translate_model_errors
from embedship.export.checkpoint.load import backbone, is_unused, load
from embedship.export.checkpoint.protocol import SourceModel
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
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
# Settings that change when a model is saved again, although no vector changes.
VOLATILE = {"transformers_version", "_name_or_path", "torch_dtype", "dtype", "architectures", "use_cache"}


@dataclass(frozen=True, slots=True, eq=False)
class EmbedderCheckpoint:
    """A checkpoint that computes one vector per text.

    `model` is the SentenceTransformer in float32 on the CPU. `tokenizer_json` has no truncation and no padding.
    """

    folder: SentenceTransformersFolder
    model: Any
    pipeline: ModelSpec
    source: ModelSource
    tokenizer_json: str

    @classmethod
    def open(
        cls,
        source: SentenceTransformersFolder | Path | str,
        name: str | None = None,
        extra_packages: Sequence[str] = (),
        dimensions: StatedDimensions | None = None,
    ) -> Self:
        """Load a sentence-transformers folder, offline. `name` is the model's name (default: `folder.model_name`).

        The versions of `extra_packages`, which also take part in the export, are recorded. `dimensions` replace those
        of the checkpoint.

        Raises UsageError or UnsafeError, with cause and remedy, if the checkpoint cannot be exported faithfully.
        """
        folder = source if isinstance(source, SentenceTransformersFolder) else SentenceTransformersFolder.open(source)
        model = load(folder)
        tokenizer_json = tokenizer.freeze_tokenizer(folder.path, model.tokenizer)
        with translate_model_errors(folder.path):
            pipeline = common_pipeline(
                folder,
                model,
                dimensions or StatedDimensions(),
                architecture=type(backbone(model[0])).__name__,
                pooling="+".join(_pooling_modes(model[1])),
                max_tokens=model.max_seq_length,
                lowercase=folder.lowercase and not tokenizer.lowercases(tokenizer_json),
                inputs=_inputs(model),
                pad_id=int(model.tokenizer.pad_token_id or 0),
                pools_prompts=model[1].include_prompt or not any(model.prompts.values()),
            )
            tokenizer.require_same_tokens(model, pipeline, tokenizer_json)
        return cls(folder, model, pipeline, source_of(folder, _weights(model), name, extra_packages), tokenizer_json)

    def encode(self, texts: Sequence[Text], prompt: str = "") -> Vectors:
        """Return the checkpoint's own (n, dim) float32 vectors, as sentence-transformers computes them."""
        with translate_model_errors(self.folder.path):
            vectors = self.model.encode(list(texts), prompt=prompt, show_progress_bar=False, convert_to_numpy=True)
        return np.asarray(vectors, dtype=np.float32)

    def features(self, texts: Sequence[Text]) -> dict[str, Any]:
        """Return the graph's inputs by name, as sentence-transformers makes them: (n, length) tensors."""
        with translate_model_errors(self.folder.path):
            features = self.model.preprocess(list(texts))
        return {name: features[name] for name in self.pipeline.inputs}

    @property
    def transformer(self) -> Any:
        return backbone(self.model[0])

    @property
    def padding_side(self) -> str:
        return str(self.model.tokenizer.padding_side)

    @property
    def tail(self) -> list[Any]:
        """The modules after the pooling."""
        return list(self.model)[2:]

    @property
    def pooling_modes(self) -> tuple[str, ...]:
        return _pooling_modes(self.model[1])


def versions_of(packages: Sequence[str]) -> dict[str, str]:
    """Return the versions of embedship and of the packages that are installed (OpenVINO may be missing on a GPU)."""
    versions = {}
    for package in ("embedship", *packages):
        with suppress(PackageNotFoundError):
            versions[package] = installed_version(package)
    return versions


def embedding(original: SourceModel) -> EmbedderCheckpoint:
    """Return the model as an EmbedderCheckpoint. The command has already refused every other kind here."""
    assert isinstance(original, EmbedderCheckpoint), "vectors are requested from a re-ranker"
    return original


def common_pipeline(
    folder: SentenceTransformersFolder, model: Any, dimensions: StatedDimensions, **fields: Any
) -> ModelSpec:
    """Return the ModelSpec of a loaded SentenceTransformer. `fields`: the fields that depend on its first modules."""
    dimension = dimensions.truncate(model)
    kinds = [type(module).__name__ for module in model if type(module).__name__ != "Dropout"]
    return ModelSpec(
        dimension=dimension,
        dimensions=dimensions.trained(folder, dimension),
        normalised=kinds[-1] == "Normalize" and not cuts(model),
        similarity=_similarity(folder, model),
        prompts={name: text or "" for name, text in model.prompts.items()},
        default_prompt=model.default_prompt_name,
        **fields,
    )


def _similarity(folder: SentenceTransformersFolder, model: Any) -> Similarity:
    try:
        return Similarity(model.similarity_fn_name or Similarity.COSINE)
    except ValueError:
        raise UsageError(
            f"{folder.path} was trained for {model.similarity_fn_name} distance; only cosine and dot are supported"
        ) from None


def _pooling_modes(pooling: Any) -> tuple[str, ...]:
    modes = pooling.pooling_mode
    return (modes,) if isinstance(modes, str) else tuple(modes)


def _inputs(model: Any) -> tuple[str, ...]:
    """Return the inputs that the tokenizer makes and the model accepts. ModernBERT rejects token types."""
    import inspect

    features = model.preprocess(["a"])
    accepted = inspect.signature(backbone(model[0]).forward).parameters
    names = tuple(name for name in INPUTS if name in features and name in accepted)
    if names[:2] != INPUTS[:2]:
        raise UsageError(f"{type(backbone(model[0])).__name__}.forward does not accept {' and '.join(INPUTS[:2])}")
    return names


def source_of(
    folder: SentenceTransformersFolder,
    weights: Sequence[dict[str, Any]],
    name: str | None,
    extra_packages: Sequence[str],
) -> ModelSource:
    """Return the origin of a loaded model. `weights`: the tensors in use of each module; the rest is as in `open`."""
    merged = ("peft",) if folder.origin.merge else ()
    return ModelSource(
        name=name or folder.origin.name,
        weights_sha256=_weights_sha256(folder, weights),
        versions=versions_of((*PACKAGES, *merged, *extra_packages)),
        revision=folder.origin.revision,
        merge=folder.origin.merge,
        code_sha256=folder.code,
        left_out=folder.left_out,
    )


def _weights(model: Any) -> list[dict[str, Any]]:
    first, *rest = model
    used = {name: tensor for name, tensor in backbone(first).state_dict().items() if not is_unused(name)}
    return [used, *(module.state_dict() for module in rest)]


def _weights_sha256(folder: SentenceTransformersFolder, weights: Sequence[dict[str, Any]]) -> str:
    """Hash the name, type, shape and bytes of every weight in use, and the settings of each module.

    Settings are included because an activation, an epsilon or a rope_theta changes vectors without changing a weight.
    """
    digest = hashlib.sha256()
    for place, tensors in enumerate(weights):
        for name, tensor in sorted(tensors.items()):
            digest.update(f"{place}.{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.contiguous().numpy().tobytes())
    for place, module in enumerate(folder.modules):
        settings = {key: value for key, value in module.config.items() if key not in VOLATILE}
        digest.update(f"{place}.{module.kind} {json.dumps(settings, sort_keys=True)}\n".encode())
    if folder.code:
        digest.update(f"code {folder.code}\n".encode())
    return digest.hexdigest()
