"""Which variant runs where nobody names one: the best as measured on a machine like this one.

A bundle carries the choice of the machine that exported it. What another machine measured (`embedship tune`, or
`serve` at its first start there) lies beside the bundle, never in it, bound to it by fingerprint and digest. A choice
of foreign instructions is never kept in silence.
"""

from __future__ import annotations

import logging
import os
import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from embedship import hardware, timing
from embedship.bundle import (
    Bundle,
    ManifestRecord,
    Objective,
    Precision,
    Quantisation,
    RetrievalReport,
    Variant,
    VariantChoice,
)
from embedship.errors import EmbedshipError
from embedship.files import sealed

# Less than this over plain ONNX is within the noise of two cores that others share: it is not worth another file.
GAIN = 1.03
CACHE = "EMBEDSHIP_CACHE"
_FORMAT = 1
_LOGGER = logging.getLogger(__name__)


class StoredChoice(ManifestRecord, frozen=True):
    """A choice outside its bundle."""

    format: int
    fingerprint: str
    bundle: str  # digest of the manifest it was measured with
    created: str
    choice: VariantChoice
    digest: str = ""


class VariantSpeeds(NamedTuple):
    """What was measured of each variant, by name."""

    tokens_per_second: Mapping[str, float]
    latency_seconds: Mapping[str, float]  # median of short texts, each alone
    # What each round took, in seconds of the same work: wall time, or CPU time where the machine was busy.
    throughput_rounds: Mapping[str, Sequence[float]] = {}
    latency_rounds: Mapping[str, Sequence[float]] = {}
    tokens_per_cpu_second: Mapping[str, float] = {}
    spread: Mapping[str, float] = {}  # of the throughput by wall time, as timing.spread says it
    busy: bool = False

    @classmethod
    def from_choice(cls, choice: VariantChoice) -> VariantSpeeds:
        """What a stored choice says; of a busy machine the CPU time counts."""
        by_cpu = choice.tokens_per_cpu_second if choice.busy else {}
        return cls(by_cpu or choice.tokens_per_second, choice.latency_seconds, busy=choice.busy)


# The more exact first: what is taken of those that noise does not tell apart.
_EXACTNESS = (Precision.FLOAT32, Precision.FLOAT16, Precision.BFLOAT16, Precision.INT8)


def rank(variants: Sequence[Variant], objective: Objective, speeds: VariantSpeeds) -> list[Variant]:
    """What may be chosen, best first; `variants` begin with the plain one, which is always among them.

    Of those that cannot be told apart from the best, the more exact comes first. Left out are variants that were not
    measured, as this machine does not run them, those that do not gain GAIN over the plain one beyond the noise, and
    dynamic int8, whose vectors depend on their neighbours: who wants that must name it.
    """
    plain = variants[0]
    rest = [v for v in variants if v is plain or _may_be_chosen(v, plain, objective, speeds)]
    ranked: list[Variant] = []
    while rest:
        best = max(rest, key=lambda v: gain(v, plain, objective, speeds))
        level = [v for v in rest if v is best or not better(best, v, objective, speeds)]
        taken = min(level, key=lambda v: (_EXACTNESS.index(v.precision), -gain(v, plain, objective, speeds)))
        ranked.append(taken)
        rest.remove(taken)
    return ranked


def _may_be_chosen(variant: Variant, plain: Variant, objective: Objective, speeds: VariantSpeeds) -> bool:
    if variant.name not in speeds.tokens_per_second or variant.quantisation is Quantisation.DYNAMIC:
        return False
    return better(variant, plain, objective, speeds)


def better(one: Variant, other: Variant, objective: Objective, speeds: VariantSpeeds) -> bool:
    """Whether `one` is better than `other` by GAIN or more, in so many rounds that it is no noise."""
    rounds = _rounds(objective, speeds)
    if one.name in rounds and other.name in rounds:
        return timing.faster(rounds[one.name], rounds[other.name], GAIN)
    return gain(one, other, objective, speeds) >= GAIN


def alike(variants: Sequence[Variant], chosen: str, objective: Objective, speeds: VariantSpeeds) -> tuple[str, ...]:
    """Names of the measured variants that cannot be told apart from the chosen one."""
    measured = {v.name: v for v in variants if v.name in speeds.tokens_per_second}
    mine = measured.pop(chosen, None)
    if mine is None:
        return ()
    return tuple(
        name
        for name, v in measured.items()
        if not better(mine, v, objective, speeds) and not better(v, mine, objective, speeds)
    )


def _rounds(objective: Objective, speeds: VariantSpeeds) -> Mapping[str, Sequence[float]]:
    match objective:
        case Objective.THROUGHPUT:
            return speeds.throughput_rounds
        case Objective.LATENCY:
            return speeds.latency_rounds
        case Objective.SIZE:
            return {}


def gain(variant: Variant, plain: Variant, objective: Objective, speeds: VariantSpeeds) -> float:
    """How many times better than the plain variant: 2 is twice the throughput, half the latency, half the size."""
    rounds = _rounds(objective, speeds)
    if variant.name in rounds and plain.name in rounds:
        return statistics.median(rounds[plain.name]) / statistics.median(rounds[variant.name])
    match objective:
        case Objective.THROUGHPUT:
            return speeds.tokens_per_second[variant.name] / speeds.tokens_per_second[plain.name]
        case Objective.LATENCY:
            return speeds.latency_seconds[plain.name] / speeds.latency_seconds[variant.name]
        case Objective.SIZE:
            return plain.size / variant.size


def within_recall_budget(quality: RetrievalReport | None, variant: str) -> bool:
    """Whether recall@10 stays within the budget that the bundle was exported with; where none was set it does."""
    if quality is None or quality.max_recall_drop is None:
        return True
    return quality.drop(variant) <= quality.max_recall_drop


def variant(bundle: Bundle, name: str | None = None) -> Variant:
    """The named variant; else the one chosen on a machine like this one; else, with a warning, the bundle's own choice.

    Nothing is measured here. Raises UsageError for a name the bundle does not have.
    """
    if name is not None:
        return bundle.variant(name)
    if found := known(bundle):
        return bundle.variant(found.variant)
    _LOGGER.warning("%s. Measure here with `embedship tune %s`", other_machine_warning(bundle), bundle.folder)
    return bundle.variant(bundle.manifest.choice.variant)


def known(bundle: Bundle, cache: Path | None = None) -> VariantChoice | None:
    """The choice measured on a machine with these instructions: what is stored, else the bundle's own, else None."""
    stored, own = load(bundle, cache), bundle.manifest.choice
    here = hardware.machine()
    return next((c for c in (stored, own) if c is not None and c.machine.same_instructions(here)), None)


def other_machine_warning(bundle: Bundle) -> str:
    """One sentence about a bundle whose choice is of another machine."""
    there, here = bundle.manifest.choice.machine, hardware.machine()
    return (
        f"{bundle.manifest.choice.variant} was chosen on {there.cpu} ({' '.join(there.isa)}), but this machine has "
        f"{' '.join(here.isa) or 'none of these instructions'}"
    )


def choice_path(bundle: Bundle, cache: Path | None = None) -> Path:
    """Where a choice is stored: `cache` (default: EMBEDSHIP_CACHE) by the bundle's digest, else beside the bundle."""
    cache = cache or (Path(os.environ[CACHE]) if os.environ.get(CACHE) else None)
    folder = bundle.folder.resolve()
    return (
        cache / f"{bundle.manifest.digest[:16]}.choice.json" if cache else folder.parent / f"{folder.name}.choice.json"
    )


def save(bundle: Bundle, choice: VariantChoice, cache: Path | None = None) -> Path:
    """Write the choice where `load` finds it, whole or not at all. Raises OSError."""
    path = choice_path(bundle, cache)
    record = StoredChoice(
        format=_FORMAT,
        fingerprint=bundle.fingerprint,
        bundle=bundle.manifest.digest,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        choice=choice,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}-{os.getpid()}")
    sealed.write(draft, record)
    draft.replace(path)
    return path


def load(bundle: Bundle, cache: Path | None = None) -> VariantChoice | None:
    """The stored choice of this very bundle, or None; one that cannot be used is named in a warning and not used."""
    path = choice_path(bundle, cache)
    if not path.exists():
        return None
    try:
        stored = sealed.read(path, StoredChoice, _FORMAT, "stored choice")
    except EmbedshipError as error:
        return _unused(f"{error}")
    if (stored.fingerprint, stored.bundle) != (bundle.fingerprint, bundle.manifest.digest):
        return _unused(f"{path} belongs to another bundle")
    return stored.choice


def _unused(reason: str) -> VariantChoice | None:
    _LOGGER.warning("what was measured on this machine is not used: %s. `embedship tune` writes it anew", reason)
    return None
