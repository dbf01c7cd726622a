"""Parity of OLD and NEW for the same model: cosines of their vectors, and their drift from OLD's reference."""

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


def summarise(cosines: Floats) -> VectorParity:
    """Summarise cosines (n,). One NaN makes the minimum and the mean NaN, which no gate passes."""
    low = float(np.percentile(cosines, 1, method="lower"))
    return VectorParity(len(cosines), float(cosines.min()), low, float(cosines.mean()))


def golden_parity(old: Bundle, new: Encoder) -> VectorParity:
    """Compare NEW's vectors of OLD's golden texts with the checkpoint's vectors stored in OLD."""
    recorded = GoldenTexts.load(old)
    return summarise(cosine(recorded.vectors, new.encode_tokens(new.tokenizer(recorded.texts))))


def cosine_floor(old: Encoder, new: Encoder) -> CosineFloor:
    """Return the lower of the two cosine floors, each for the precision that runs on this machine."""
    floors = [encoder.bundle.manifest.floors[encoder.engine.precision] for encoder in (old, new)]
    return CosineFloor(min(each.minimum for each in floors), min(each.mean for each in floors))


def measure_drift(old: Encoder, new: Encoder, old_vectors: Vectors, new_vectors: Vectors) -> DriftStates | None:
    """Test OLD's and NEW's vectors (n, d) of the same queries against OLD's reference. Return None if it has none."""
    reference = references.find(old.bundle)
    if reference is None:
        return None
    before, after = _drift_report(reference, old, old_vectors), _drift_report(reference, new, new_vectors)
    reason = next((report.reason for report in (before, after) if report.state is SignalState.UNKNOWN), "")
    return DriftStates(
        old=before.state,
        new=after.state,
        old_effect=before.effect,
        new_effect=after.effect,
        floor=after.effect_floor,
        ks_largest=float(ks_statistic(old_vectors, new_vectors).max()),
        reason=reason,
    )


def _drift_report(reference: DriftReference, encoder: Encoder, vectors: Vectors) -> DriftReport:
    """Run the drift test of the server, with an interval of one day."""
    detector = DriftDetector(reference, variant=encoder.variant.name, interval_seconds=DAY_SECONDS)
    detector.update(vectors)
    return detector.evaluate()
