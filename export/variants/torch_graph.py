"""The complete pipeline, from transformer to normalised vector or score, as one torch module and as an ONNX file."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor

from embedship.batches import UNPOOLED
from embedship.bundle import Task
from embedship.export.checkpoint.dimensions import cuts
from embedship.export.checkpoint.embedder import EmbedderCheckpoint
from embedship.export.checkpoint.protocol import SourceModel
from embedship.export.silence import ignoring, silence

# The newest opset that OpenVINO 2026.4 and ONNX Runtime 1.22 both read and ONNX Runtime's fusions support.
OPSET = 17
OUTPUTS = ("last_hidden_state", "sentence_embedding")
# Warnings of torch.onnx about dynamo=False, and about the (never negative) indices in transformers' masks; and of
# torch.tensor about a size, which is a tensor while DeBERTa is traced.
_LEGACY = (
    (UserWarning, r"To copy construct from a tensor"),
    (UserWarning, r"Exporting aten::index operator of advanced indexing"),
    (DeprecationWarning, r"You are using the legacy TorchScript-based ONNX export"),
    (DeprecationWarning, r"The feature will be removed\. Please remove usage of this function"),
)
# Limit for the weights in one file: protobuf allows 2 GiB per file, and 64 MiB are left for the nodes. Tests lower it.
LARGEST = 2**31 - 2**26


class TokenPooling(torch.nn.Module):
    """Pool token vectors to one vector per text. Positions come from the mask, so padding may be on either side.

    The modes and their order are those of sentence-transformers. Several modes are concatenated.
    """

    def __init__(self, modes: Sequence[str]) -> None:
        super().__init__()
        self.modes = tuple(modes)

    def forward(self, hidden: Tensor, mask: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Pool (n, length, dim) float32 with an (n, length) int64 mask to (n, dim x modes).

        `tokens` is the mask of all tokens, if `mask` leaves out those of a prompt.
        """
        tokens = mask if tokens is None else tokens
        return torch.cat([_POOLS[mode](hidden, mask, tokens) for mode in self.modes], dim=-1)


def _cls(hidden: Tensor, mask: Tensor, _: Tensor) -> Tensor:
    places = torch.where(mask > 0, _places(mask), mask.shape[1] - 1)
    return _at(hidden, places.amin(dim=1))


def _lasttoken(hidden: Tensor, mask: Tensor, _: Tensor) -> Tensor:
    return _at(hidden, (_places(mask) * mask).amax(dim=1))


def _mean(hidden: Tensor, mask: Tensor, _: Tensor) -> Tensor:
    return _sum(hidden, mask) / _count(mask)


def _mean_sqrt_len(hidden: Tensor, mask: Tensor, _: Tensor) -> Tensor:
    return _sum(hidden, mask) / _count(mask).sqrt()


def _weightedmean(hidden: Tensor, mask: Tensor, tokens: Tensor) -> Tensor:
    """Return a mean with weights 1, 2, 3, ... from the first token that is not padding (SGPT, arXiv:2202.08904)."""
    weights = torch.cumsum(tokens, dim=1) * mask
    return _sum(hidden, weights) / _count(weights)


def _max(hidden: Tensor, mask: Tensor, _: Tensor) -> Tensor:
    return hidden.masked_fill(mask.unsqueeze(-1) == 0, torch.finfo(hidden.dtype).min).amax(dim=1)


def _places(mask: Tensor) -> Tensor:
    return torch.cumsum(torch.ones_like(mask), dim=1) - 1


def _at(hidden: Tensor, places: Tensor) -> Tensor:
    index = places.unsqueeze(-1).unsqueeze(-1).expand(-1, 1, hidden.shape[-1])
    return torch.gather(hidden, 1, index).squeeze(1)


def _sum(hidden: Tensor, weights: Tensor) -> Tensor:
    return (hidden * weights.unsqueeze(-1).to(hidden.dtype)).sum(dim=1)


def _count(weights: Tensor) -> Tensor:
    return weights.sum(dim=1, keepdim=True).to(torch.float32).clamp(min=1e-9)


_POOLS = {
    "cls": _cls,
    "lasttoken": _lasttoken,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_sqrt_len,
    "weightedmean": _weightedmean,
}


class EmbeddingModule(torch.nn.Module):
    """The pipeline of an embedding model. Inputs are in the order of `pipeline.inputs`, outputs in that of OUTPUTS."""

    outputs: tuple[str, ...] = OUTPUTS

    def __init__(self, checkpoint: EmbedderCheckpoint) -> None:
        super().__init__()
        self.names = checkpoint.pipeline.inputs
        self.transformer = checkpoint.transformer
        self.pool = TokenPooling(checkpoint.pooling_modes)
        self.tail = torch.nn.ModuleList(checkpoint.tail)  # sentence-transformers' own Dense, LayerNorm, Normalize
        self.cut = checkpoint.pipeline.dimension if cuts(checkpoint.model) else None
        self.pools_prompts = checkpoint.pipeline.pools_prompts

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        named = dict(zip(self.names, inputs, strict=True))
        pooled = named["attention_mask"]
        if not self.pools_prompts:
            named["attention_mask"] = (pooled > 0).to(pooled.dtype)
            pooled = named["attention_mask"] * (pooled != UNPOOLED).to(pooled.dtype)
        hidden = self.transformer(**named, return_dict=True).last_hidden_state
        features: dict[str, Any] = {"sentence_embedding": self.pool(hidden, pooled, named["attention_mask"])}
        for module in self.tail:
            features = module(features)
        vectors = features["sentence_embedding"]
        return hidden, vectors if self.cut is None else vectors[:, : self.cut]


class RerankModule(torch.nn.Module):
    """The pipeline of a re-ranker. Inputs are in the order of `pipeline.inputs`; the output is the logits, (n, 1)."""

    outputs: tuple[str, ...] = (Task.RERANK.output,)

    def __init__(self, checkpoint: SourceModel) -> None:
        super().__init__()
        self.names = checkpoint.pipeline.inputs
        self.transformer = checkpoint.transformer

    def forward(self, *inputs: Tensor) -> Tensor:
        named = dict(zip(self.names, inputs, strict=True))
        logits: Tensor = self.transformer(**named, return_dict=True).logits
        return logits


def write(checkpoint: SourceModel, path: Path) -> None:
    """Export the pipeline in float32 with dynamic batch and length. The same checkpoint gives the same bytes.

    Uses the TorchScript exporter and eager attention: with dynamo or sdpa, ONNX Runtime finds no Attention to fuse
    (torch 2.13, transformers 5.23), and OpenVINO gives NaN under padding.
    """
    graph = EmbeddingModule(checkpoint) if isinstance(checkpoint, EmbedderCheckpoint) else RerankModule(checkpoint)
    with eager(graph.transformer):
        save(trace(graph, _example(checkpoint)), path)


def trace(graph: EmbeddingModule | RerankModule, example: tuple[Tensor, ...]) -> onnx.ModelProto:
    """Trace the module to an ONNX graph with dynamic batch and length, without parts that differ between exports."""
    axes: dict[str, dict[int, str]] = {name: {0: "batch", 1: "sequence"} for name in graph.names}
    axes |= {name: {0: "batch", 1: "sequence"} if name == OUTPUTS[0] else {0: "batch"} for name in graph.outputs}
    with tempfile.TemporaryDirectory() as folder, _tracing(), torch.no_grad():
        torch.onnx.export(
            graph.eval(),
            example,
            str(Path(folder, "graph.onnx")),
            input_names=list(graph.names),
            output_names=list(graph.outputs),
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
        return strip_metadata(onnx.load(str(Path(folder, "graph.onnx"))))


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write a model. Large weights go to one sidecar file, <name>_data, the name that other tools expect."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not is_large(model):
        path.write_bytes(model.SerializeToString(deterministic=True))
        return
    name = f"{path.name}_data"
    (path.parent / name).unlink(missing_ok=True)  # onnx would append to an existing file
    onnx.save_model(model, str(path), save_as_external_data=True, location=name, size_threshold=1024)
    onnx.load_external_data_for_model(model, str(path.parent))  # saving removes the weights from `model`


def is_large(model: onnx.ModelProto) -> bool:
    """Return True if the weights exceed the limit. protobuf's own ByteSize fails for such models."""
    return sum(_bytes(tensor) for tensor in model.graph.initializer) > LARGEST


def _bytes(tensor: onnx.TensorProto) -> int:
    kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return int(kind.itemsize * math.prod(tensor.dims))


def _example(checkpoint: SourceModel) -> tuple[Tensor, ...]:
    """Return two texts of different length, because a mask of ones only would be traced as no mask."""
    texts = ["a text to trace the graph with", "short"]
    alone = checkpoint.pipeline.task is Task.EMBED
    features = checkpoint.features(texts if alone else [(text, text) for text in texts])
    return tuple(features[name] for name in checkpoint.pipeline.inputs)


def strip_metadata(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove the parts that differ between two exports of one model: source paths in doc strings, and metadata."""
    del model.metadata_props[:]
    model.doc_string = model.graph.doc_string = ""
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        value.doc_string = ""
    return model


@contextmanager
def eager(transformer: Any) -> Iterator[None]:
    """Use eager attention, with masks made by broadcasting.

    transformers builds the masks of models with a mask function of their own (Gemma 3 bidirectional) with torch.vmap,
    which cannot be traced (`unordered_map::at`). These functions compare indices, so broadcasting gives the same mask.
    """
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS as MASKS

    before, mask = transformer.config._attn_implementation, MASKS["eager"]
    transformer.set_attn_implementation("eager")
    MASKS["eager"] = lambda *args, **kwargs: mask(*args, **{**kwargs, "use_vmap": False})
    try:
        yield
    finally:
        MASKS["eager"] = mask
        transformer.set_attn_implementation(before)


@contextmanager
def _tracing() -> Iterator[None]:
    """Ignore two kinds of warnings: that the exporter is legacy (`write` says why it is used), and that shapes are
    used as numbers.
    """
    tracing: type[Warning] = torch.jit.TracerWarning  # type: ignore[attr-defined]
    with silence(), ignoring(*_LEGACY, (tracing, "")):
        yield
