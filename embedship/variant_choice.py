"""Variant choice: decides which variant runs if none is named, by measurements on a machine like this one.

A bundle contains the choice of the machine that exported it. The choice of another machine (made by `embedship tune`,
or by `serve` at its first start there) is stored next to the bundle, never in it, with the bundle's fingerprint and
digest. The choice of a machine with other instructions is used only with a warning.
"""

from __future__ import annotations

import logging
import os
import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
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

# On two shared cores, a smaller gain over plain ONNX is noise. It is also not worth another file.
GAIN = 1.03
CACHE = "EMBEDSHIP_CACHE"
_FORMAT = 1
logger = logging.getLogger(__name__)


class StoredChoice(ManifestRecord, frozen=True):
    """A choice stored outside its bundle."""

    format: int
    fingerprint: str
    bundle: str  # digest of the bundle's manifest at the time of the measurement
    created: str
    choice: VariantChoice
    digest: str = ""


class VariantSpeeds(NamedTuple):
    """The measured speeds of variants, by name."""

    tokens_per_second: Mapping[str, float]
    latency_seconds: Mapping[str, float]  # median for short texts, one at a time
    # Seconds of each round for the same work: wall time, or CPU time if the machine was busy.
    throughput_rounds: Mapping[str, Sequence[float]] = {}
    latency_rounds: Mapping[str, Sequence[float]] = {}
    tokens_per_cpu_second: Mapping[str, float] = {}
    spread: Mapping[str, float] = {}  # of the throughput rounds in wall time, see timing.spread
    busy: bool = False

    @classmethod
    def from_choice(cls, choice: VariantChoice) -> VariantSpeeds:
        """Return the speeds of a stored choice. If the machine was busy, the CPU time counts."""
        by_cpu = choice.tokens_per_cpu_second if choice.busy else {}
        return cls(by_cpu or choice.tokens_per_second, choice.latency_seconds, busy=choice.busy)


# The most exact first. Among variants that the rounds cannot tell apart, the most exact is chosen.
_EXACTNESS = (Precision.FLOAT32, Precision.FLOAT16, Precision.BFLOAT16, Precision.INT8)


def rank(variants: Sequence[Variant], objective: Objective, speeds: VariantSpeeds) -> list[Variant]:
    """Return the variants that may be chosen, best first. `variants` begin with the plain one, which always qualifies.

    If several variants cannot be told apart from the best, the most exact of them comes first. Three kinds of variants
    are excluded: those that were not measured because they do not run here; those that are not at least GAIN times
    better than the plain one beyond the noise; and dynamic int8, because its vectors depend on the other texts of a
    batch. Dynamic int8 is used only if the user names it.
    """
    plain = variants[0]
    candidates = [v for v in variants if v is plain or _may_be_chosen(v, plain, objective, speeds)]
    ranked: list[Variant] = []
    while candidates:
        best = max(candidates, key=lambda v: gain(v, plain, objective, speeds))
        equal = [v for v in candidates if v is best or not better(best, v, objective, speeds)]
        chosen = min(equal, key=lambda v: (_EXACTNESS.index(v.precision), -gain(v, plain, objective, speeds)))
        ranked.append(chosen)
        candidates.remove(chosen)
    return ranked


def _may_be_chosen(variant: Variant, plain: Variant, objective: Objective, speeds: VariantSpeeds) -> bool:
    if variant.name not in speeds.tokens_per_second or variant.quantisation is Quantisation.DYNAMIC:
        return False
    return better(variant, plain, objective, speeds)


def better(one: Variant, other: Variant, objective: Objective, speeds: VariantSpeeds) -> bool:
    """Return whether `one` is better than `other` by at least GAIN, in enough rounds that it is not noise."""
    rounds = _rounds(objective, speeds)
    if one.name in rounds and other.name in rounds:
        return timing.faster(rounds[one.name], rounds[other.name], GAIN)
    return gain(one, other, objective, speeds) >= GAIN


def alike(variants: Sequence[Variant], chosen: str, objective: Objective, speeds: VariantSpeeds) -> tuple[str, ...]:
    """Return the names of the measured variants that cannot be told apart from the chosen one."""
    measured = {v.name: v for v in variants if v.name in speeds.tokens_per_second}
    best = measured.pop(chosen, None)
    if best is None:
        return ()
    return tuple(
        name
        for name, v in measured.items()
        if not better(best, v, objective, speeds) and not better(v, best, objective, speeds)
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
    """Return how many times better a variant is than `plain`: 2 is twice the throughput, half the latency or size."""
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
    """Return whether recall@10 stays within the limit of the export. True if no limit was set."""
    if quality is None or quality.max_recall_drop is None:
        return True
    return quality.drop(variant) <= quality.max_recall_drop


def variant(bundle: Bundle, name: str | None = None) -> Variant:
    """Return the named variant, else the choice of a machine like this one, else the bundle's choice with a warning.

    If the runtime of the choice is not installed, the best variant whose runtime is installed takes its place, with a
    warning. Nothing is measured here. Raises UsageError if the bundle has no variant of this name.
    """
    if name is not None or bundle.only:
        return bundle.variant(name or bundle.variants[0].name)
    choice = find_choice(bundle)
    if choice is None:
        choice = bundle.manifest.choice
        warning = other_machine_warning(bundle)
        logger.warning("%s. Measure on this machine with `embedship tune %s`", warning, bundle.folder)
    chosen = bundle.variant(choice.variant)
    if find_spec(chosen.runtime) or (other := best_installed(bundle, choice)) is None:
        return chosen  # without any runtime, opening it names the extra to install
    logger.warning("%s needs %s, which is not installed here: %s is used", chosen.name, chosen.runtime, other.name)
    return other


def best_installed(bundle: Bundle, choice: VariantChoice, refused: Sequence[str] = ()) -> Variant | None:
    """Return the best variant of a choice whose runtime is installed and whose recall is allowed, or None.

    Variants named in `refused` are left out.
    """
    machine = hardware.machine()
    variants = [v for v in bundle.manifest.variants if v.name not in refused]
    runnable = [v for v in variants if find_spec(v.runtime) and machine.meets(v.needs)]
    measured = [v for v in runnable if v.name in choice.tokens_per_second]
    ranked = rank(measured, choice.objective, VariantSpeeds.from_choice(choice)) if measured else runnable
    return next((v for v in ranked if within_recall_budget(bundle.manifest.quality, v.name)), None)


def find_choice(bundle: Bundle, cache: Path | None = None) -> VariantChoice | None:
    """Return the stored choice, else the bundle's. A choice of a machine with other instructions is skipped."""
    stored, own = load(bundle, cache), bundle.manifest.choice
    machine = hardware.machine()
    return next((c for c in (stored, own) if c is not None and c.machine.same_instructions(machine)), None)


def other_machine_warning(bundle: Bundle) -> str:
    """Return a text that names the other machine, on which the bundle's choice was made."""
    exporter, machine = bundle.manifest.choice.machine, hardware.machine()
    return (
        f"{bundle.manifest.choice.variant} was chosen on {exporter.cpu} ({' '.join(exporter.isa)}), but this machine "
        f"has {' '.join(machine.isa) or 'none of these instructions'}"
    )


def choice_path(bundle: Bundle, cache: Path | None = None) -> Path:
    """Return where a choice is stored: in `cache` (default: EMBEDSHIP_CACHE) by digest, else next to the bundle."""
    cache = cache or (Path(os.environ[CACHE]) if os.environ.get(CACHE) else None)
    folder = bundle.folder.resolve()
    return (
        cache / f"{bundle.manifest.digest[:16]}.choice.json" if cache else folder.parent / f"{folder.name}.choice.json"
    )


def save(bundle: Bundle, choice: VariantChoice, cache: Path | None = None) -> Path:
    """Write the choice atomically where `load` finds it, and return its path. Raises OSError."""
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
    """Return the stored choice of exactly this bundle, or None. An unusable one is reported in a warning."""
    path = choice_path(bundle, cache)
    if not path.exists():
        return None
    try:
        stored = sealed.read(path, StoredChoice, _FORMAT, "stored choice")
    except EmbedshipError as error:
        return _warn_unused(f"{error}")
    if (stored.fingerprint, stored.bundle) != (bundle.fingerprint, bundle.manifest.digest):
        return _warn_unused(f"{path} belongs to another bundle")
    return stored.choice


def _warn_unused(reason: str) -> VariantChoice | None:
    logger.warning("the stored choice of this machine is not used: %s. `embedship tune` writes a new one", reason)
    return None
