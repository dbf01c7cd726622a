"""The second converter: Optimum exports the transformer, and our pooling and later modules are appended to its graph.

Optimum can export a complete sentence-transformers pipeline, but leaves out token_type_ids and gives the first output
an unusual name.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import torch
from torch import Tensor

from embedship.errors import UsageError
from embedship.export.checkpoint.embedder import EmbedderCheckpoint
from embedship.export.silence import ignoring, no_progress_bars, silence
from embedship.export.variants import torch_graph

_HIDDEN, _VECTORS = torch_graph.OUTPUTS
_GIVEN, _MASK = "given", "attention_mask"  # inputs of the tail: its input and output need different names


def require() -> None:
    """Raise UsageError if Optimum is missing, or for transformers 5, which no release of optimum-onnx supports."""
    installed = version("transformers")
    if int(installed.split(".")[0]) >= 5:
        raise UsageError(
            f"--converter optimum works with transformers 4.57, and {installed} is installed: leave --converter out, "
            "or make another virtual environment and, in a checkout of embedship, run there: "
            "pip install -c constraints-optimum.txt '.[cpu,export,optimum]'"
        )
    try:
        importlib.import_module("optimum.exporters.onnx")
    except ImportError:
        raise UsageError(
            "optimum-onnx is not installed: make another virtual environment and, in a checkout of embedship, run "
            "there: pip install -c constraints-optimum.txt '.[cpu,export,optimum]'"
        ) from None


def write(checkpoint: EmbedderCheckpoint, path: Path) -> None:
    """Export in float32, like torch_graph.write.

    Raises UsageError if Optimum does not know the architecture, or gives it inputs that the tokenizer does not make.
    """
    if checkpoint.folder.static:
        raise UsageError("Optimum exports no static embeddings: leave --converter out")
    if not checkpoint.pipeline.pools_prompts:
        raise UsageError(
            "Optimum cannot leave prompts out of the pooling (include_prompt=False): leave --converter out"
        )
    body = _transformer(checkpoint)
    input_names = tuple(value.name for value in body.graph.input)
    if set(input_names) != set(checkpoint.pipeline.inputs):
        raise UsageError(
            f"Optimum exports {checkpoint.pipeline.architecture} with the inputs {', '.join(input_names)}, and its "
            f"tokenizer gives {', '.join(checkpoint.pipeline.inputs)}: leave --converter out"
        )
    torch_graph.save(_joined(body, _tail(checkpoint)), path)


def _transformer(checkpoint: EmbedderCheckpoint) -> onnx.ModelProto:
    from optimum.exporters.onnx import onnx_export_from_model

    transformer = checkpoint.model[0].model
    with tempfile.TemporaryDirectory() as folder, torch_graph.eager(transformer), _quiet():
        try:
            onnx_export_from_model(
                transformer,
                folder,
                task="feature-extraction",
                opset=torch_graph.OPSET,
                do_validation=False,
                device="cpu",
            )
        except (ValueError, KeyError, RuntimeError, NotImplementedError) as error:
            raise UsageError(
                f"Optimum cannot export {checkpoint.pipeline.architecture}: {error}; leave --converter out"
            ) from error
        return torch_graph.strip_metadata(onnx.load(str(Path(folder, "model.onnx"))))


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress Optimum's warnings about opsets, tracing and optional packages. The gate judges the result."""
    with silence(), no_progress_bars(), ignoring((Warning, "")):
        yield


class _PipelineTail(torch_graph.EmbeddingModule):
    """The modules after the transformer. Inputs: token vectors and mask. Outputs: token vectors and pooled vectors."""

    def __init__(self, checkpoint: EmbedderCheckpoint) -> None:
        super().__init__(checkpoint)
        self.names = (_GIVEN, _MASK)
        self.transformer = _GivenTokens()


class _GivenTokens(torch.nn.Module):
    def forward(self, given: Tensor, attention_mask: Tensor, return_dict: bool) -> Any:
        return SimpleNamespace(last_hidden_state=given)


def _tail(checkpoint: EmbedderCheckpoint) -> onnx.ModelProto:
    width = checkpoint.model[0].model.config.hidden_size
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])  # a mask of ones only would be traced as no mask
    return torch_graph.trace(_PipelineTail(checkpoint), (torch.rand(2, 3, width), mask))


def _joined(body: onnx.ModelProto, tail: onnx.ModelProto) -> onnx.ModelProto:
    """Join both graphs into one. Names that only the tail has get a prefix; shared names stay."""
    shared = {f"tail/{_GIVEN}": _HIDDEN, f"tail/{_MASK}": _MASK, f"tail/{_VECTORS}": _VECTORS}
    tail = onnx.compose.add_prefix(tail, "tail/")
    for node in tail.graph.node:
        node.input[:] = [shared.get(name, name) for name in node.input]
        node.output[:] = [shared.get(name, name) for name in node.output]
    body.graph.node.extend(node for node in tail.graph.node if f"tail/{_HIDDEN}" not in node.output)
    body.graph.initializer.extend(tail.graph.initializer)
    (vectors,) = (value for value in tail.graph.output if value.name == f"tail/{_VECTORS}")
    vectors.name = _VECTORS
    body.graph.output.append(vectors)
    return body
