"""One model twice: do NEW's vectors agree with OLD's, and do they move what the drift monitor watches?"""

from __future__ import annotations

import numpy as np

from embedship.bundle import Bundle
from embedship.codes import Vectors, cosine
from embedship.encoder import Encoder
from embedship.golden_texts import GoldenTexts
from embedship.monitor.drift.detector import DriftDetector, DriftReport
from embedship.monitor.drift.false_alarms import DAY_SECONDS
from embedship.monitor.drift.reference import DriftReference
from embedship.monitor.state import SignalState
from embedship.monitor.statistics import ks_statistic
from embedship.serve.compare.gates import CosineFloor
from embedship.serve.compare.rankings import Floats
from embedship.serve.compare.report import DriftStates, VectorParity
from embedship.serve.offline import references


def of(cosines: Floats) -> VectorParity:
    """(n,) cosines; a NaN makes all of it NaN, which no gate lets through."""
    low = float(np.percentile(cosines, 1, method="lower"))
    return VectorParity(len(cosines), float(cosines.min()), low, float(cosines.mean()))


def golden(old: Bundle, new: Encoder) -> VectorParity:
    """NEW's vectors of OLD's golden texts, to the checkpoint's that OLD recorded."""
    recorded = GoldenTexts.load(old)
    return of(cosine(recorded.vectors, new.encode_tokens(new.tokenizer(recorded.texts))))


def floor(old: Encoder, new: Encoder) -> CosineFloor:
    """The looser of what the two must hold to the checkpoint, in the precision that runs here."""
    both = [encoder.bundle.manifest.floors[encoder.engine.precision] for encoder in (old, new)]
    return CosineFloor(min(each.minimum for each in both), min(each.mean for each in both))


def drift(old: Encoder, new: Encoder, then: Vectors, now: Vectors) -> DriftStates | None:
    """Vectors (n, d) of the same queries by OLD and NEW, against OLD's reference; None where it has none."""
    reference = references.find(old.bundle)
    if reference is None:
        return None
    before, after = _tested(reference, old, then), _tested(reference, new, now)
    unknown = next((found.reason for found in (before, after) if found.state is SignalState.UNKNOWN), "")
    return DriftStates(
        old=before.state,
        new=after.state,
        old_effect=before.effect,
        new_effect=after.effect,
        floor=after.effect_floor,
        ks_largest=float(ks_statistic(then, now).max()),
        reason=unknown,
    )


def _tested(reference: DriftReference, encoder: Encoder, vectors: Vectors) -> DriftReport:
    """As a server tests its last queries, but once a day."""
    detector = DriftDetector(reference, variant=encoder.variant.name, interval_seconds=DAY_SECONDS)
    detector.update(vectors)
    return detector.evaluate()
