"""StaticCheckpoint: a loaded static embedding model (StaticEmbedding of sentence-transformers, model2vec).

A table has one row per token. The vector of a text is the mean of the rows of its tokens. There is no transformer, and
there are no special tokens. The export is that of any embedding model, with `StaticBackbone` as the transformer and
mean pooling.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import torch

from embedship.bundle import TOKENIZER, ModelSpec
from embedship.errors import UsageError
from embedship.export.checkpoint.dimensions import StatedDimensions
from embedship.export.checkpoint.embedder import (
    INPUTS,
    EmbedderCheckpoint,
    common_pipeline,
    source_of,
)
from embedship.export.checkpoint.folder import SentenceTransformersFolder
from embedship.export.checkpoint.forward import translate_model_errors
from embedship.export.checkpoint.load import open_model
from embedship.export.probe_texts import adversarial_texts
from embedship.tokens import Text, Tokenizer

MODEL_TYPE = "static_embedding"
# sentence-transformers reads texts of any length. A server needs a limit, and counts the texts that it truncates.
_MAX_TOKENS = 8192


class StaticBackbone(torch.nn.Module):
    """The table with the interface of a transformer. It returns the row of each token, regardless of other tokens."""

    def __init__(self, table: torch.Tensor) -> None:
        super().__init__()
        self.rows: torch.nn.Embedding = torch.nn.Embedding.from_pretrained(table.to(torch.float32))  # type: ignore[no-untyped-call]
        self.config = SimpleNamespace(model_type=MODEL_TYPE, hidden_size=int(table.shape[1]), _attn_implementation="")

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, return_dict: bool = True) -> Any:
        """Return (n, length, dim) float32 rows as `last_hidden_state`, for (n, length) int64 ids and mask."""
        return SimpleNamespace(last_hidden_state=self.rows(input_ids))

    def get_input_embeddings(self) -> torch.nn.Embedding:
        return self.rows

    def set_attn_implementation(self, name: str) -> None:
        """Do nothing: there is no attention."""


class StaticCheckpoint(EmbedderCheckpoint):
    """A checkpoint whose vectors are means of a table's rows. `model` is the SentenceTransformer."""

    @classmethod
    def open(
        cls,
        source: SentenceTransformersFolder | Path | str,
        name: str | None = None,
        extra_packages: Sequence[str] = (),
        dimensions: StatedDimensions | None = None,
    ) -> Self:
        """Load a folder whose first module is a StaticEmbedding. Raises UsageError as EmbedderCheckpoint.open does."""
        folder = source if isinstance(source, SentenceTransformersFolder) else SentenceTransformersFolder.open(source)
        model = open_model(folder).float()  # model2vec may save its table in float16
        tokenizer_json, max_tokens = _freeze_tokenizer(model[0].tokenizer)
        with translate_model_errors(folder.path):
            pipeline = common_pipeline(
                folder,
                model,
                dimensions or StatedDimensions(),
                architecture=type(model[0]).__name__,
                pooling="mean",
                max_tokens=max_tokens,
                lowercase=False,
                inputs=INPUTS[:2],
                pad_id=0,
            )
            _require_same_tokens(model[0], pipeline, tokenizer_json)
        weights = [module.state_dict() for module in model]
        return cls(folder, model, pipeline, source_of(folder, weights, name, extra_packages), tokenizer_json)

    def features(self, texts: Sequence[Text]) -> dict[str, Any]:
        """Return the graph's inputs by name: (n, length) tensors."""
        rows = [
            torch.tensor(e.ids) for e in self.model[0].tokenizer.encode_batch(list(texts), add_special_tokens=False)
        ]
        pad = torch.nn.utils.rnn.pad_sequence
        ids, mask = pad(rows, True, self.pipeline.pad_id), pad([torch.ones_like(row) for row in rows], True, 0)
        return dict(zip(self.pipeline.inputs, (ids, mask), strict=True))

    @property
    def padding_side(self) -> str:
        return "right"

    @property
    def transformer(self) -> StaticBackbone:
        return StaticBackbone(self.model[0].embedding.weight.detach())

    @property
    def pooling_modes(self) -> tuple[str, ...]:
        return ("mean",)

    @property
    def tail(self) -> list[Any]:
        return list(self.model)[1:]


def _freeze_tokenizer(loaded: Any) -> tuple[str, int]:
    """Return the tokenizer.json without special tokens, truncation and padding, and the maximum length in tokens."""
    limit = (loaded.truncation or {}).get("max_length", _MAX_TOKENS)
    content = json.loads(loaded.to_str())
    content["truncation"] = content["padding"] = content["post_processor"] = None
    return json.dumps(content, ensure_ascii=False), int(limit)


def _require_same_tokens(module: Any, pipeline: ModelSpec, tokenizer_json: str) -> None:
    """Compare the frozen tokenizer with the checkpoint's own on adversarial texts. Raises UsageError."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, TOKENIZER)
        path.write_text(tokenizer_json, encoding="utf-8")
        tokenizer = Tokenizer(path, pipeline)
    texts = adversarial_texts(tokenizer, pipeline.max_tokens)
    for prompt in {"", *pipeline.prompts.values()}:
        for text, ids in zip(texts, tokenizer(texts, prompt).ids, strict=True):
            expected = module.preprocess([text], prompt=prompt or None)["input_ids"].tolist()[: pipeline.max_tokens]
            if expected != ids:
                raise UsageError(
                    f"the frozen tokenizer and the checkpoint disagree on {text[:40]!r}: "
                    f"{len(ids)} and {len(expected)} tokens, first {ids[:6]} and {expected[:6]}"
                )
