"""Parity gate: the vectors of each variant, run as the server will run it, against the checkpoint's own vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from embedship import golden
from embedship.bundle import ExportStage, InvarianceReport, ParityFloors, ParityReport, Precision, Task
from embedship.codes import Vectors, normalise
from embedship.encoder import Encoder
from embedship.errors import GateError, UsageError
from embedship.export import probe_pairs
from embedship.export.gates import batch_invariance
from embedship.export.gates.probe_set import ProbeSet
from embedship.export.probe_texts import shown
from embedship.export.variant_failures import failing
from embedship.likeness import measure_name, similarity, spread
from embedship.tokens import Text

# MiniLM measures over 214 texts (minimum, mean, overlap): float32 0.99999, 1.00000, 0.999 (O3); bfloat16 0.99996,
# 0.99999, 0.993; int8 0.9863, 0.9978, 0.945. The floors leave room for other models but not for a broken graph. Vector
# lengths differ by less than 1e-6 if the model normalises. float16 has 11 bits (0.999996), bfloat16 8.
FLOORS = {
    Precision.FLOAT32: ParityFloors(minimum=0.9999, mean=0.9999, overlap=0.99, length=0.999),
    Precision.FLOAT16: ParityFloors(minimum=0.9995, mean=0.9995, overlap=0.95, length=0.99),
    Precision.BFLOAT16: ParityFloors(minimum=0.999, mean=0.999, overlap=0.95, length=0.98),
    # Short texts have few tokens to average errors over. The floor leaves room below what MiniLM measures: its worst
    # short text, "thank you", had 0.958 in onnx-int8 before short texts were part of the calibration.
    Precision.INT8: ParityFloors(minimum=0.97, mean=0.99, overlap=0.85, length=0.9, short=0.95),
}
# A score is one number, so errors do not average out as over 384 components, and single adversarial pairs differ more.
# A cross-encoder of two layers measures over 242 pairs 0.885 (worst) and 0.992 (mean) in int8, with 0.966 of the
# passages in order. bfloat16 measured 0.99883 on a CPU that has it; its floors lie between those of float16 and int8.
SCORE_FLOORS = FLOORS | {
    Precision.BFLOAT16: ParityFloors(minimum=0.99, mean=0.998, overlap=0.95, length=0.97),
    Precision.INT8: ParityFloors(minimum=0.8, mean=0.98, overlap=0.9, length=0.9),
}
Cosines = npt.NDArray[np.float64]
NEIGHBOURS = 10
# Two neighbours whose cosines differ by less are equally near, so their order is not judged.
_TIE = 1e-5


class GateMeasurement(NamedTuple):
    """The figures for the manifest, and the (n,) cosines of all probes for the report's histogram."""

    parity: ParityReport
    invariance: InvarianceReport
    cosines: Cosines


def floors(wanted: Sequence[str], task: Task = Task.EMBED) -> dict[Precision, ParityFloors]:
    """Return FLOORS (SCORE_FLOORS for a re-ranker), changed by settings such as `int8-minimum=0.96`.

    Raises UsageError that names the allowed settings.
    """
    changed = dict(FLOORS if task is Task.EMBED else SCORE_FLOORS)
    for setting in wanted:
        precision, figure, value = _setting(setting)
        changed[precision] = msgspec.structs.replace(changed[precision], **{figure: value})
    return changed


def _setting(setting: str) -> tuple[Precision, str, float]:
    name, _, value = setting.partition("=")
    precision, _, figure = name.partition("-")
    try:
        if figure in ParityFloors.__struct_fields__ and -1 <= float(value) <= 1:
            return Precision(precision), figure, float(value)
    except ValueError:
        pass
    raise UsageError(
        f"--floor {setting} must be PRECISION-FIGURE=VALUE, with a precision of {', '.join(Precision)}, a figure of "
        f"{', '.join(ParityFloors.__struct_fields__)}, and a value from -1 to 1"
    )


def measure(encoder: Encoder, name: str, probes: ProbeSet) -> tuple[ParityReport, Cosines]:
    """Compare the encoder's vectors with the checkpoint's. Returns the report, and the (n,) cosines of all probes.

    Raises GateError if a row contains NaN or infinity.
    """
    texts, expected = probes.all_texts, probes.all_vectors
    vectors = probes.encode(encoder)
    _require_finite(name, vectors, texts)
    task = encoder.bundle.task
    cosines = similarity(task, expected, vectors)
    worst = int(np.argmin(cosines))  # argmin treats NaN (a zero row) as the smallest value
    parity = ParityReport(
        texts=len(texts),
        longest=probes.longest,
        minimum=float(cosines[worst]),
        mean=float(cosines.mean()),
        overlap=_order(task, probes, vectors),
        length=length(vectors, expected) if task is Task.EMBED else _spreads(vectors, expected),
        worst_text=shown(texts[worst]),
    )
    return _with_short(parity, encoder, name, probes), cosines


def _with_short(parity: ParityReport, encoder: Encoder, name: str, probes: ProbeSet) -> ParityReport:
    if probes.short_vectors is None:
        return parity
    vectors = encoder.encode_tokens(encoder.tokenizer(probes.short))
    _require_finite(name, vectors, probes.short)
    cosines = similarity(encoder.bundle.task, probes.short_vectors, vectors)
    worst = int(np.argmin(cosines))
    return msgspec.structs.replace(
        parity,
        short_texts=len(probes.short),
        short_minimum=float(cosines[worst]),
        short_mean=float(cosines.mean()),
        short_worst_text=shown(probes.short[worst]),
    )


def _order(task: Task, probes: ProbeSet, vectors: Vectors) -> float:
    """Return how much of the checkpoint's ranking is preserved, from 0 to 1."""
    if task is Task.EMBED:
        return overlap(vectors, probes.all_vectors)
    return probe_pairs.concordance(probes.texts, vectors, probes.vectors)


def _spreads(scores: Vectors, expected: Vectors) -> float:
    low, high = sorted(map(spread, (scores, expected)))
    return low / high


def _require_finite(name: str, vectors: Vectors, texts: Sequence[Text]) -> None:
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise GateError(
            f"variant {name} gives NaN or infinity for {len(bad)} of {len(texts)} texts, first {shown(texts[bad[0]])}"
        )


def overlap(vectors: Vectors, expected: Vectors) -> float:
    """Return the mean share of each row's nearest rows, by cosine, that are also nearest in (n, dim) `expected`."""
    k = min(NEIGHBOURS, len(vectors) - 1)
    actual_similarities, expected_similarities = (_similarities(rows) for rows in (vectors, expected))
    nearest = np.argpartition(-actual_similarities, k - 1, axis=1)[:, :k]
    least = -np.partition(-expected_similarities, k - 1, axis=1)[:, k - 1 : k]
    return float((np.take_along_axis(expected_similarities, nearest, axis=1) >= least - _TIE).mean())


def _similarities(vectors: Vectors) -> Vectors:
    unit = normalise(vectors)
    scores = unit @ unit.T
    np.fill_diagonal(scores, -np.inf)
    return scores


def length(vectors: Vectors, expected: Vectors) -> float:
    """Return the worst ratio of a row's length to the expected length (smaller over larger); 0 if one is zero."""
    lengths = np.stack([np.linalg.norm(rows, axis=1) for rows in (vectors, expected)])
    return float((lengths.min(axis=0) / np.maximum(lengths.max(axis=0), np.finfo(np.float32).tiny)).min())


def judge(name: str, precision: Precision, parity: ParityReport, floors: ParityFloors, task: Task = Task.EMBED) -> None:
    """Raise GateError, with the worst text and the options that change the floors, if a figure is below its floor."""
    # `not >=` instead of `<`, so that NaN fails.
    failures = [
        f"{figure} {measured:.6f} is under the floor {floor} (--floor {precision}-{flag})"
        for figure, flag, measured, floor in (
            (f"minimum {measure_name(task)}", "minimum", parity.minimum, floors.minimum),
            (f"mean {measure_name(task)}", "mean", parity.mean, floors.mean),
            (_ORDERS[task], "overlap", parity.overlap, floors.overlap),
            ("length ratio" if task is Task.EMBED else "ratio of spreads", "length", parity.length, floors.length),
        )
        if not measured >= floor
    ]
    least = floors.minimum if floors.short is None else floors.short
    if parity.short_minimum is not None and not parity.short_minimum >= least:
        failures.append(
            f"minimum {measure_name(task)} of {parity.short_texts} short texts {parity.short_minimum:.6f} is under the "
            f"floor {least} (--floor {precision}-short), worst {parity.short_worst_text}"
        )
    if failures:
        raise GateError(
            f"variant {name} ({precision}) does not reproduce the checkpoint's {_ANSWERS[task]}: "
            f"{' and '.join(failures)}. Worst of {parity.texts} texts: {parity.worst_text}"
        )


_ORDERS = {Task.EMBED: f"top-{NEIGHBOURS} overlap", Task.RERANK: "share of passages in the checkpoint's order"}
_ANSWERS = {Task.EMBED: "vectors", Task.RERANK: "scores"}


def require(encoder: Encoder, probes: ProbeSet, floors: dict[Precision, ParityFloors]) -> GateMeasurement:
    """Run parity and batch invariance for one variant, then the golden-text check that every server runs.

    Raises VariantError with the stage that failed.
    """
    name, variant_floors = encoder.variant.name, floors[encoder.engine.precision]
    with failing(name, ExportStage.PARITY):
        parity, cosines = measure(encoder, name, probes)
        judge(name, encoder.engine.precision, parity, variant_floors, encoder.bundle.task)
    with failing(name, ExportStage.INVARIANCE):
        certificate = batch_invariance.certify(encoder, probes.invariance_texts, probes.either_side)
        batch_invariance.judge(encoder.variant, certificate, variant_floors)
    with failing(name, ExportStage.GOLDEN):
        golden.check(encoder)
    return GateMeasurement(parity, certificate, cosines)
