"""The gate: every variant, run as the server will run it, against the vectors of the checkpoint itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from embedship import golden
from embedship.bundle import Floors, Parity, Precision
from embedship.codes import Vectors, cosine
from embedship.encoder import Encoder
from embedship.errors import GateError
from embedship.export import probes
from embedship.export.checkpoint import Checkpoint
from embedship.golden import Golden
from embedship.tokens import Tokenizer

# float16 keeps 11 bits (MiniLM: 0.999996), bfloat16 8: 0.9999 is usual.
# int8 of MiniLM measures 0.98 to 0.99 at the worst text.
FLOORS = {
    Precision.FLOAT32: Floors(minimum=0.9999, mean=0.9999),
    Precision.FLOAT16: Floors(minimum=0.9995, mean=0.9995),
    Precision.BFLOAT16: Floors(minimum=0.999, mean=0.999),
    Precision.INT8: Floors(minimum=0.97, mean=0.99),
}
_GOLDEN_REAL = 14
_WIDTH = 80


@dataclass(frozen=True, slots=True, eq=False)
class Probes:
    """Texts without prompt, and the checkpoint's own (n, dim) float32 vectors of them; the hostile ones come first."""

    texts: list[str]
    vectors: Vectors
    hostile: int

    @classmethod
    def make(cls, checkpoint: Checkpoint, tokenizer: Tokenizer, real: Sequence[str]) -> Probes:
        """Hostile texts and the given real ones, each with every prompt of the model taken in turn.

        Raises GateError if the checkpoint itself gives NaN or infinity.
        """
        nasty = probes.hostile(tokenizer, min(checkpoint.pipeline.max_tokens, probes.LONGEST))
        prompts = ["", *(prompt for prompt in checkpoint.pipeline.prompts.values() if prompt)]
        prompted = [prompts[i % len(prompts)] + text for i, text in enumerate(real)]
        kept = [_fits(tokenizer, texts) for texts in (nasty, prompted)]
        texts = kept[0] + kept[1]
        vectors = checkpoint.encode(texts)
        if not np.isfinite(vectors).all():
            row = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
            raise GateError(f"the checkpoint itself gives NaN or infinity, for {shown(texts[row])}: nothing to export")
        return cls(texts, vectors, len(kept[0]))

    def golden(self, tokenizer: Tokenizer) -> Golden:
        """The hostile ones and the first of the real ones, with their token ids."""
        count = self.hostile + _GOLDEN_REAL
        texts = self.texts[:count]
        return Golden(texts, tokenizer(texts).ids, self.vectors[:count])


def _fits(tokenizer: Tokenizer, texts: list[str]) -> list[str]:
    """Without texts of no token at all, which have no vector, and those that would need too much memory."""
    return [text for text, n in zip(texts, tokenizer(texts).lengths, strict=True) if 0 < n <= probes.LONGEST]


class Agreement(NamedTuple):
    """What the manifest keeps of it, and the cosine of each probe, (n,), for the report's histogram."""

    parity: Parity
    cosines: npt.NDArray[np.float64]


def measure(encoder: Encoder, probes: Probes) -> Agreement:
    """Cosine of the encoder's vectors to the checkpoint's. NaN and infinity give NaN, which no floor lets through."""
    vectors = encoder.encode_tokens(encoder.tokenizer(probes.texts))
    cosines = cosine(vectors, probes.vectors)
    worst = int(np.argmin(cosines))  # a NaN counts as the smallest
    parity = Parity(
        texts=len(probes.texts),
        longest=0,
        overlap=0.0,
        minimum=float(cosines[worst]),
        mean=float(cosines.mean()),
        worst_text=shown(probes.texts[worst]),
    )
    return Agreement(parity, cosines)


def judge(name: str, precision: Precision, parity: Parity, floors: Floors) -> None:
    """Raise GateError with the worst text, the figures and the cure, unless both floors are held."""
    # `not >=` and never `<`: a NaN must fail.
    failures = [
        f"{what} {measured:.6f} is under the floor {floor} (--floor-{precision}-{flag})"
        for what, flag, measured, floor in (
            ("minimum", "min", parity.minimum, floors.minimum),
            ("mean", "mean", parity.mean, floors.mean),
        )
        if not measured >= floor
    ]
    if failures:
        raise GateError(
            f"variant {name} ({precision}) does not give the checkpoint's vectors: cosine {' and '.join(failures)}. "
            f"Worst of {parity.texts} texts: {parity.worst_text}. No bundle was written. "
            f"Leave it out (--variants without {name}), or lower the floor if you accept the loss."
        )


def require(encoder: Encoder, name: str, probes: Probes, floors: dict[Precision, Floors]) -> Agreement:
    """Measure and judge one variant, then run the golden texts through it, alone and in company."""
    agreement = measure(encoder, probes)
    judge(name, encoder.engine.precision, agreement.parity, floors[encoder.engine.precision])
    golden.check(encoder)
    return agreement


def shown(text: str) -> str:
    """A text as one short, printable line."""
    return ascii(text) if len(text) <= _WIDTH else f"{text[:_WIDTH]!a}... ({len(text)} characters)"
