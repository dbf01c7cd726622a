"""Golden texts: probes whose tokens and vectors were written down when the bundle was exported; a re-ranker's are pairs
and their scores.

A running variant must still produce them, alone and in company, before it may answer anybody.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from embedship.bundle import GOLDEN, Bundle, Floors, Quantisation, Task, Variant
from embedship.codes import Vectors
from embedship.encoder import Encoder
from embedship.errors import GateError, UnsafeError
from embedship.likeness import likeness, measure
from embedship.tokens import Text

# Where a batch of one and a batch of many are computed by different kernels the last bits differ; more than this
# means that a text's vector depends on its neighbours.
ALONE_FLOOR = 0.999
REAL = 14


def company_floor(variant: Variant, floors: Floors) -> float:
    """How much company may change a text's vector. Dynamic int8 depends on it, and is said to: but no more than int8
    may differ from the checkpoint."""
    return floors.minimum if variant.quantisation is Quantisation.DYNAMIC else ALONE_FLOOR


@dataclass(frozen=True, slots=True)
class Golden:
    """Probe texts, their token ids, and the checkpoint's own (n, dim) float32 vectors: hostile ones, then REAL real."""

    texts: list[Text]
    ids: list[list[int]]
    vectors: Vectors

    @property
    def real(self) -> list[Text]:
        return self.texts[-REAL:]

    def save(self, path: Path) -> None:
        tensors: dict[str, npt.NDArray[Any]] = {
            "ids": np.concatenate([np.asarray(row, dtype=np.int64) for row in self.ids]),
            "lengths": np.asarray([len(row) for row in self.ids], dtype=np.int64),
            "vectors": np.ascontiguousarray(self.vectors),
        }
        safetensors.numpy.save_file(tensors, path, metadata={"texts": json.dumps(self.texts)})

    @classmethod
    def load(cls, bundle: Bundle) -> Self:
        path = bundle.path(GOLDEN)
        try:
            with safe_open(path, framework="numpy") as file:
                texts = [_text(value) for value in json.loads((file.metadata() or {})["texts"])]
                ids, lengths, vectors = (file.get_tensor(key) for key in ("ids", "lengths", "vectors"))
        except (SafetensorError, KeyError, ValueError, OSError) as error:
            raise UnsafeError(f"{path} is damaged: {error}; export the bundle again") from None
        rows = np.split(ids, np.cumsum(lengths)[:-1])
        return cls(texts, [row.tolist() for row in rows], vectors)


def _text(value: Any) -> Text:
    """JSON has no tuples."""
    return value if isinstance(value, str) else (str(value[0]), str(value[1]))


@dataclass(frozen=True, slots=True)
class GoldenCheck:
    """Worst cosine to the checkpoint, and worst cosine between a text alone and the same text in a batch; of scores,
    how alike they are (see likeness.py)."""

    texts: int
    minimum: float
    mean: float
    alone: float


def check(encoder: Encoder) -> GoldenCheck:
    """Run the golden texts through the encoder, alone and coalesced.

    Raises GateError if a token id, the cosine to the checkpoint, or the agreement of alone and coalesced is off:
    the floor is the one the bundle was exported with, for the precision that really runs here.
    """
    golden = Golden.load(encoder.bundle)
    tokens = encoder.tokenizer(golden.texts)
    for text, ours, theirs in zip(golden.texts, tokens.ids, golden.ids, strict=True):
        if ours != theirs:
            raise GateError(
                f"the tokenizer gives other ids than at export for {str(text)[:60]!r}: reinstall `tokenizers`"
            )
    together = encoder.encode_tokens(tokens)
    alone = np.concatenate([encoder.encode_tokens(tokens.row(place)) for place in range(len(tokens))])
    task = encoder.bundle.task
    parity, company = likeness(task, golden.vectors, together), likeness(task, alone, together)
    result = GoldenCheck(len(golden.texts), float(parity.min()), float(parity.mean()), float(company.min()))
    _judge(encoder, result, golden.texts[int(parity.argmin())])
    return result


def _judge(encoder: Encoder, result: GoldenCheck, worst: Text) -> None:
    precision, task = encoder.engine.precision, encoder.bundle.task
    answer = "vector" if task is Task.EMBED else "score"
    floors = encoder.bundle.manifest.floors[precision]
    # `not >=` and never `<`: a NaN must fail.
    if not (result.minimum >= floors.minimum and result.mean >= floors.mean):
        raise GateError(
            f"golden check failed at {precision}: {measure(task)} to the checkpoint is min {result.minimum:.5f}, mean "
            f"{result.mean:.5f}; the bundle demands {floors.minimum} and {floors.mean}. Worst text: "
            f"{str(worst)[:80]!r}. Take another variant, or export again on a machine like this one."
        )
    if not result.alone >= (floor := company_floor(encoder.variant, floors)):
        raise GateError(
            f"golden check failed: a text's {answer} changes with its neighbours ({measure(task)} {result.alone:.5f} "
            f"between alone and in a batch; {floor} is demanded). Take a variant that is not quantised dynamically."
        )
