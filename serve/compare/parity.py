"""One model twice: do NEW's vectors agree with OLD's, and do they move what the drift monitor watches?"""

from __future__ import annotations

import numpy as np

from embedship.bundle import Bundle
from embedship.codes import Vectors, cosine
from embedship.encoder import Encoder
from embedship.golden_texts import Golden
from embedship.monitor.drift.detector import DriftDetector, DriftReport
from embedship.monitor.drift.false_alarms import DAY_SECONDS
from embedship.monitor.drift.reference import Reference
from embedship.monitor.state import State
from embedship.monitor.statistics import ks_statistic
from embedship.serve.compare.gates import Floor
from embedship.serve.compare.rankings import Floats
from embedship.serve.compare.report import Drift, Parity
from embedship.serve.offline import references


def of(cosines: Floats) -> Parity:
    """(n,) cosines; a NaN makes all of it NaN, which no gate lets through."""
    low = float(np.percentile(cosines, 1, method="lower"))
    return Parity(len(cosines), float(cosines.min()), low, float(cosines.mean()))


def golden(old: Bundle, new: Encoder) -> Parity:
    """NEW's vectors of OLD's golden texts, to the checkpoint's that OLD recorded."""
    recorded = Golden.load(old)
    return of(cosine(recorded.vectors, new.encode_tokens(new.tokenizer(recorded.texts))))


def floor(old: Encoder, new: Encoder) -> Floor:
    """The looser of what the two must hold to the checkpoint, in the precision that runs here."""
    both = [encoder.bundle.manifest.floors[encoder.engine.precision] for encoder in (old, new)]
    return Floor(min(each.minimum for each in both), min(each.mean for each in both))


def drift(old: Encoder, new: Encoder, then: Vectors, now: Vectors) -> Drift | None:
    """Vectors (n, d) of the same queries by OLD and NEW, against OLD's reference; None where it has none."""
    reference = references.find(old.bundle)
    if reference is None:
        return None
    before, after = _tested(reference, old, then), _tested(reference, new, now)
    unknown = next((found.reason for found in (before, after) if found.state is State.UNKNOWN), "")
    return Drift(
        old=before.state,
        new=after.state,
        old_effect=before.effect,
        new_effect=after.effect,
        floor=after.effect_floor,
        ks_largest=float(ks_statistic(then, now).max()),
        reason=unknown,
    )


def _tested(reference: Reference, encoder: Encoder, vectors: Vectors) -> DriftReport:
    """As a server tests its last queries, but once a day."""
    detector = DriftDetector(reference, variant=encoder.variant.name, interval_seconds=DAY_SECONDS)
    detector.update(vectors)
    return detector.evaluate()
