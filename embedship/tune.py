"""Tuning: measures the speed of each variant on this machine, with an Encoder and real texts, and chooses one."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, TypeVar

from embedship import golden, hardware, shapes, variant_choice
from embedship.bundle import Bundle, Objective, Variant, VariantChoice
from embedship.encoder import Encoder
from embedship.errors import EngineError, GateError, MismatchError, MissingExtra, ShapesError
from embedship.golden_texts import GoldenTexts
from embedship.timing import ProcessClock, Rounds, VariantTimer, VariantTiming, faster, spread
from embedship.tokens import Text, Tokenizer
from embedship.variant_choice import VariantSpeeds

# Duration of a round of the slowest variant: about six batches on two cores. With three batches, one core would be idle
# at the end of every round, and all speeds would be a fifth too low.
ROUND_SECONDS = 1.2
# Values at the start of a server: less exact, but short.
_QUICK_SECONDS = 0.4
_AT_START_SECONDS = 10.0
# Lowest and highest number of rounds. Rounds are added until the best variant is faster than all others by more than
# the noise.
_ROUNDS, _MOST_ROUNDS = 3, 7
_PILOT_TOKENS = 1_500  # one batch, which runs on one stream
# Token counts of short queries, special tokens included. As in production, the length changes from call to call:
# OpenVINO prepares its graph again when the shape changes, and that time must be measured.
_SHORT_TOKENS = (4, 6, 8, 10, 12, 15, 19, 24)
_LATENCY_ROUNDS = 5
# If all variants together are at most this size, all are open at the same time and take turns. Otherwise only the plain
# variant and one other are open at a time.
_TOGETHER_BYTES = 2**30

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TimedRounds:
    """Rounds of each variant, in seconds per token (throughput) and per short text (latency), and what failed."""

    throughput: dict[str, list[VariantTiming]]
    latency: dict[str, list[VariantTiming]]
    busy: bool
    failed: dict[str, Exception]

    @property
    def speeds(self) -> VariantSpeeds:
        """The speeds of the variants. If the machine was busy, the `_rounds` fields are CPU time, else wall time."""

        def seconds(rounds: Rounds) -> dict[str, list[float]]:
            return {name: [each.cpu if self.busy else each.wall for each in all] for name, all in rounds.items()}

        return VariantSpeeds(
            tokens_per_second={name: round(1 / _wall(all), 1) for name, all in self.throughput.items()},
            latency_seconds={name: round(_wall(all), 6) for name, all in self.latency.items()},
            throughput_rounds=seconds(self.throughput),
            latency_rounds=seconds(self.latency),
            tokens_per_cpu_second={name: round(1 / max(_cpu(all), 1e-9), 1) for name, all in self.throughput.items()},
            spread={name: round(spread([each.wall for each in all]), 4) for name, all in self.throughput.items()},
            busy=self.busy,
        )


def measure(
    encoders: Mapping[str, Encoder],
    texts: Sequence[Text],
    round_seconds: float | None = None,
    clock: ProcessClock | None = None,
) -> TimedRounds:
    """Time every variant in rounds: first one long workload from `texts`, then short texts one at a time.

    Tokens are counted with special tokens, without padding. Variants take turns in each round. The first rounds warm up
    and are not counted. A variant needs about `round_seconds` (default: ROUND_SECONDS) or less per round. If the first
    of `encoders` fails, its error is raised; errors of the others are in `failed` of the result.
    """
    name, first = next(iter(encoders.items()))
    timer = VariantTimer(list(encoders), name, first.engine.streams, clock or ProcessClock())
    pilot, tokens = _slice(first.tokenizer, texts, _PILOT_TOKENS)
    timer.round(lambda name: encoders[name].encode(pilot))
    slowest = tokens / max(each.wall for each in timer.round(lambda name: encoders[name].encode(pilot)).values())
    workload_tokens = slowest * first.engine.streams * (round_seconds or ROUND_SECONDS)
    workload, tokens = _slice(first.tokenizer, texts, int(workload_tokens))
    timer.round(lambda name: encoders[name].encode(workload))
    timer.reset_busy()
    rounds = [timer.round(lambda name: encoders[name].encode(workload), tokens) for _ in range(_ROUNDS)]
    while len(rounds) < _MOST_ROUNDS and not _best_is_clear(timer.by_variant(rounds)):
        rounds.append(timer.round(lambda name: encoders[name].encode(workload), tokens))
    busy = timer.busy
    short = _short(first.tokenizer, texts)

    def one_at_a_time(name: str) -> None:
        for text in short:
            encoders[name].encode([text])

    timer.round(one_at_a_time)
    latency = [timer.round(one_at_a_time, len(short)) for _ in range(_LATENCY_ROUNDS)]
    return TimedRounds(timer.by_variant(rounds), timer.by_variant(latency), busy, timer.failed)


def _best_is_clear(rounds: Rounds) -> bool:
    """Return whether the best variant is faster than every other by more than the noise."""
    seconds = {name: [each.wall for each in all] for name, all in rounds.items()}
    best = min(seconds, key=lambda name: statistics.median(seconds[name]))
    return all(faster(seconds[best], all, variant_choice.GAIN) for name, all in seconds.items() if name != best)


def make_choice(
    variants: Sequence[Variant], objective: Objective, variant: str, speeds: VariantSpeeds
) -> VariantChoice:
    """Return the record of choosing `variant`, with the measured speeds of `variants` on this machine."""
    names = [v.name for v in variants if v.name in speeds.tokens_per_second]
    if speeds.busy:
        logger.warning(
            "other programs used this machine while variants were timed: the speeds are too low, and the choice is by "
            "CPU time. `embedship tune` measures again"
        )
    return VariantChoice(
        objective=objective,
        variant=variant,
        machine=hardware.machine(),
        tokens_per_second={name: speeds.tokens_per_second[name] for name in names},
        latency_seconds={name: speeds.latency_seconds[name] for name in names},
        tokens_per_cpu_second={name: speeds.tokens_per_cpu_second[name] for name in names},
        spread={name: speeds.spread[name] for name in names},
        alike=variant_choice.alike(variants, variant, objective, speeds),
        busy=speeds.busy,
    )


def remeasure(
    bundle: Bundle,
    objective: Objective,
    texts: Sequence[Text] = (),
    *,
    round_seconds: float | None = None,
    limit_seconds: float = float("inf"),
    certified: bool = True,
    cache: Path | None = None,
    progress: Callable[[str], object] = lambda name: None,
    clock: ProcessClock | None = None,
) -> VariantChoice:
    """Measure the variants that run on this machine, in turn, and return the choice.

    All variants are open at once if they are small. For a large model, only the plain variant and one other are open.
    `texts` default to the bundle's golden texts. After `limit_seconds` no further variant is started; the bundle's
    own choice is among the first two. With `certified`, an unknown shape certificate is made and stored in `cache`.
    Variants beyond the export's recall limit are not chosen. Raises MissingExtra, GateError.
    """
    bundle.require_complete("a comparison of variants")
    texts = list(texts) or GoldenTexts.load(bundle).real
    start = time.perf_counter()
    runnable = [name for name in _order(bundle) if find_spec(bundle.variant(name).runtime)]
    if not runnable:
        raise MissingExtra("a runtime that the bundle was exported for", "cpu")
    plain, *others = runnable  # if the plain variant's runtime is missing, the next variant takes its place
    small = sum(v.size for v in bundle.manifest.variants) <= _TOGETHER_BYTES
    check = partial(_checked, bundle, certified=certified, cache=cache)

    def open_encoders(names: Sequence[str], encoders: dict[str, Encoder], stack: ExitStack) -> dict[str, Encoder]:
        opened = dict(encoders)
        for name in names:
            if time.perf_counter() - start > limit_seconds:
                logger.warning("%s was not measured: the limit of %.0f s has passed", name, limit_seconds)
                continue
            progress(name)
            if encoder := _open(check, name, stack):
                opened[name] = encoder
        return opened

    parts: list[TimedRounds] = []
    with ExitStack() as stack:
        progress(plain)
        first = {plain: check(plain, stack)}
        for names in [others] if small or not others else [[name] for name in others]:
            with ExitStack() as own:
                encoders = open_encoders(names, first, own)
                if len(encoders) > 1 or not parts:
                    parts.append(measure(encoders, texts, round_seconds, clock))
    for name, error in [pair for timed in parts for pair in timed.failed.items()]:
        logger.warning("%s does not run on this machine and is left out: %s", name, error)
    speeds = _joined(plain, parts).speeds
    measured = [v for v in bundle.manifest.variants if v.name in speeds.tokens_per_second]
    best = _best_within_recall_budget(bundle, variant_choice.rank(measured, objective, speeds))
    return make_choice(measured, objective, best, speeds)


def _joined(plain: str, parts: Sequence[TimedRounds]) -> TimedRounds:
    """Join parts. Each timed the plain variant: times are scaled so that the plain variant is equal in all parts."""
    first, *others = parts
    throughput, latency = dict(first.throughput), dict(first.latency)
    for part in others:
        throughput |= _scaled(part.throughput, plain, first.throughput[plain])
        latency |= _scaled(part.latency, plain, first.latency[plain])
    return TimedRounds(throughput, latency, any(part.busy for part in parts), {})


def _scaled(rounds: Rounds, plain: str, expected: Sequence[VariantTiming]) -> dict[str, list[VariantTiming]]:
    reference = rounds[plain]
    wall = _wall(expected) / _wall(reference)
    cpu = _cpu(expected) / _cpu(reference) if _cpu(reference) else 1.0
    return {
        name: [VariantTiming(each.wall * wall, each.cpu * cpu) for each in all]
        for name, all in rounds.items()
        if name != plain
    }


def _wall(rounds: Sequence[VariantTiming]) -> float:
    return statistics.median([each.wall for each in rounds])


def _cpu(rounds: Sequence[VariantTiming]) -> float:
    return statistics.median([each.cpu for each in rounds])


def _best_within_recall_budget(bundle: Bundle, ranked: Sequence[Variant]) -> str:
    for variant in ranked:
        if variant_choice.within_recall_budget(bundle.manifest.quality, variant.name):
            return variant.name
    raise GateError(
        "no variant that runs on this machine stays within the --max-recall-drop of the export: name one with "
        "--variant if you accept the loss, or export with a target that suits this machine"
    )


class ChosenVariant(NamedTuple):
    """The variant that a server uses, and a warning for its log about the choice, if any."""

    variant: str
    warning: str | None


OpenedT = TypeVar("OpenedT")


def open_chosen(bundle: Bundle, cache: Path | None, open_variant: Callable[[ChosenVariant], OpenedT]) -> OpenedT:
    """Call `open_variant` with the chosen variant, and return the result. On ShapesError, try the next best variant.

    Raises ShapesError if no variant is right on this machine, and the errors of `open_variant`.
    """
    chosen = choose_variant(bundle, cache)
    refused: list[str] = []
    while True:
        try:
            return open_variant(chosen)
        except ShapesError as error:
            refused.append(chosen.variant)
            choice = variant_choice.find_choice(bundle, cache) or bundle.manifest.choice
            other = None if bundle.only else variant_choice.best_installed(bundle, choice, refused)
            if other is None:
                raise
            logger.warning("%s is used: %s", other.name, error)
            chosen = ChosenVariant(
                other.name,
                f"too many batch shapes of {', '.join(refused)} have wrong vectors on this machine: {other.name} is "
                f"used. `embedship tune {bundle.folder}` stores a choice among the right variants",
            )


def choose_variant(bundle: Bundle, cache: Path | None = None) -> ChosenVariant:
    """Return the stored choice for a machine of this type. If there is none, measure quickly and store the choice."""
    if bundle.only:
        return ChosenVariant(bundle.only, None)
    known = variant_choice.find_choice(bundle, cache)
    if known and find_spec(runtime := bundle.variant(known.variant).runtime):
        return ChosenVariant(known.variant, None)
    reason = (
        f"{known.variant} needs {runtime}, which is not installed here"
        if known
        else variant_choice.other_machine_warning(bundle)
    )
    logger.warning("%s: measuring again, for about %.0f s at most", reason, _AT_START_SECONDS)
    objective = bundle.manifest.choice.objective
    choice = remeasure(
        bundle, objective, round_seconds=_QUICK_SECONDS, limit_seconds=_AT_START_SECONDS, certified=False
    )
    return ChosenVariant(
        choice.variant,
        f"{reason}: measured again, {choice.variant} is best for {objective}; {_store(bundle, choice, cache)}",
    )


def _store(bundle: Bundle, choice: VariantChoice, cache: Path | None) -> str:
    """Store the choice for the next start. Return a message: where it is stored, or why it is not stored."""
    try:
        return f"stored in {variant_choice.save(bundle, choice, cache)}"
    except OSError as error:
        return (
            f"not stored, {error.filename} cannot be written ({error.strerror}): the next start measures again, unless "
            f"--cache ({variant_choice.CACHE}) names a writable folder"
        )


def _order(bundle: Bundle) -> list[str]:
    """Return the variants in order: the plain one (the reference for all), the bundle's choice, the others by speed."""
    speeds = bundle.manifest.choice.tokens_per_second
    others = sorted((v.name for v in bundle.manifest.variants), key=lambda name: -speeds.get(name, 0.0))
    return list(dict.fromkeys([bundle.plain.name, bundle.manifest.choice.variant, *others]))


def _open(check: Callable[[str, ExitStack], Encoder], name: str, stack: ExitStack) -> Encoder | None:
    """Open a variant, or return None with a warning if this machine cannot run it."""
    try:
        return check(name, stack)
    except (MismatchError, MissingExtra, EngineError, GateError) as error:
        logger.warning("%s does not run on this machine and is left out: %s", name, error)
        return None


def _checked(bundle: Bundle, name: str, stack: ExitStack, *, certified: bool, cache: Path | None) -> Encoder:
    """Open a variant until `stack` ends. Raises GateError if its golden texts or its shapes are wrong here."""
    with ExitStack() as own:
        encoder = own.enter_context(Encoder.open(bundle, name, task=None))
        if certified:
            shapes.ensure(encoder, cache)
        golden.check(encoder)  # a variant with wrong vectors must not be chosen, even if it is fast
        stack.enter_context(own.pop_all())
    return encoder


def _slice(tokenizer: Tokenizer, texts: Sequence[Text], wanted: int) -> tuple[list[Text], int]:
    """Return the first texts that have at least `wanted` tokens in total, and that total. Few texts are repeated."""
    lengths = tokenizer(texts).lengths
    chosen: list[Text] = []
    total = 0
    while total < wanted and any(lengths):
        for text, length in zip(texts, lengths, strict=True):
            if not length:  # a text without tokens has no vector
                continue
            chosen.append(text)
            total += length
            if total >= wanted:
                break
    return chosen, total


def _short(tokenizer: Tokenizer, texts: Sequence[Text]) -> list[Text]:
    """Return the texts with token counts closest to _SHORT_TOKENS, in the order of these counts, each text once."""
    lengths = tokenizer(texts).lengths
    rows = [row for row, length in enumerate(lengths) if length]
    closest = (min(rows, key=lambda row: abs(lengths[row] - wanted)) for wanted in _SHORT_TOKENS)
    return [texts[row] for row in dict.fromkeys(closest)]
