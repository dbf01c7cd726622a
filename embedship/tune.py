"""How fast is each variant on this machine, through the encoder, on real texts? Run by export, `tune`, and `serve`."""

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
from typing import NamedTuple

from embedship import golden, hardware, shapes, variant_choice
from embedship.bundle import Bundle, Objective, Variant, VariantChoice
from embedship.encoder import Encoder
from embedship.errors import EngineError, GateError, MismatchError, MissingExtra
from embedship.golden_texts import GoldenTexts
from embedship.timing import ProcessClock, Rounds, VariantTimer, VariantTiming, faster, spread
from embedship.tokens import Text, Tokenizer
from embedship.variant_choice import VariantSpeeds

# A round takes the slowest variant about this long: some six batches on two cores. With three, one core idles at the
# end of every round and all figures are a fifth too low.
ROUND_SECONDS = 1.2
# At the start of a server: less exact, and soon over.
_QUICK_SECONDS = 0.4
_AT_START_SECONDS = 10.0
# Rounds are added until each variant is told apart from the best, or this many are done.
_ROUNDS, _MOST_ROUNDS = 3, 7
_PILOT_TOKENS = 1_500  # one batch, so one stream
# Short queries, as long as questions are, special tokens included. Their lengths differ from call to call, as in
# service: OpenVINO prepares its graph anew when the shape changes.
_SHORT_TOKENS = (4, 6, 8, 10, 12, 15, 19, 24)
_LATENCY_ROUNDS = 5
# Variants are open at the same time, so that their rounds take turns, where their files are smaller than this together;
# else plain and one other at a time.
_TOGETHER_BYTES = 2**30

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TimedRounds:
    """Rounds of each variant, in seconds a token (throughput) and a short text (latency), and what failed meanwhile."""

    throughput: dict[str, list[VariantTiming]]
    latency: dict[str, list[VariantTiming]]
    busy: bool
    failed: dict[str, Exception]

    @property
    def speeds(self) -> VariantSpeeds:
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
    round_seconds: float = ROUND_SECONDS,
    clock: ProcessClock | None = None,
) -> TimedRounds:
    """Time all `texts` together (special tokens counted, padding not), and short ones of them alone, in rounds in turn.

    A first round warms up and does not count. The first of `encoders` must not fail; others that do are in `failed`.
    """
    name, first = next(iter(encoders.items()))
    watch = VariantTimer(list(encoders), name, first.engine.streams, clock or ProcessClock())
    pilot, tokens = _slice(first.tokenizer, texts, _PILOT_TOKENS)
    watch.round(lambda name: encoders[name].encode(pilot))
    slowest = tokens / max(each.wall for each in watch.round(lambda name: encoders[name].encode(pilot)).values())
    lot, tokens = _slice(first.tokenizer, texts, int(slowest * first.engine.streams * round_seconds))
    watch.round(lambda name: encoders[name].encode(lot))
    watch.forget()
    rounds = [watch.round(lambda name: encoders[name].encode(lot), tokens) for _ in range(_ROUNDS)]
    while len(rounds) < _MOST_ROUNDS and not _told_apart(watch.together(rounds)):
        rounds.append(watch.round(lambda name: encoders[name].encode(lot), tokens))
    busy = watch.busy
    short = _short(first.tokenizer, texts)

    def alone(name: str) -> None:
        for text in short:
            encoders[name].encode([text])

    watch.round(alone)
    latency = [watch.round(alone, len(short)) for _ in range(_LATENCY_ROUNDS)]
    return TimedRounds(watch.together(rounds), watch.together(latency), busy, watch.failed)


def _told_apart(rounds: Rounds) -> bool:
    """Whether the best is faster than every other beyond the noise."""
    seconds = {name: [each.wall for each in all] for name, all in rounds.items()}
    best = min(seconds, key=lambda name: statistics.median(seconds[name]))
    return all(faster(seconds[best], all, variant_choice.GAIN) for name, all in seconds.items() if name != best)


def decided(variants: Sequence[Variant], objective: Objective, variant: str, speeds: VariantSpeeds) -> VariantChoice:
    """The choice of `variant`, with what was measured of `variants` here."""
    names = [v.name for v in variants if v.name in speeds.tokens_per_second]
    if speeds.busy:
        _LOGGER.warning(
            "other programs used this machine while variants were timed: the speeds are too low, and CPU time decided; "
            "`embedship tune` measures again"
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
    round_seconds: float = ROUND_SECONDS,
    limit_seconds: float = float("inf"),
    certified: bool = True,
    cache: Path | None = None,
    progress: Callable[[str], object] = lambda name: None,
    clock: ProcessClock | None = None,
) -> VariantChoice:
    """Measure the variants that run here, in turn, and choose.

    All are open at once where they are small; of a large model plain and one other at a time take memory. `texts` are
    by default the bundle's golden ones. After `limit_seconds` no further variant is begun; the bundle's own choice is
    among the first two. A shape certificate that is not known is made and kept in `cache`, unless `certified` says that
    it is not wanted now. What the bundle's quality budget left out stays out.
    """
    texts = list(texts) or GoldenTexts.load(bundle).real
    began = time.perf_counter()
    runnable = [name for name in _order(bundle) if find_spec(bundle.variant(name).runtime)]
    if not runnable:
        raise MissingExtra("a runtime that the bundle was exported for", "cpu")
    plain, *others = runnable  # without the runtime of the plain variant, the first other one takes its place
    small = sum(v.size for v in bundle.manifest.variants) <= _TOGETHER_BYTES
    check = partial(_checked, bundle, certified=certified, cache=cache)

    def opened(names: Sequence[str], encoders: dict[str, Encoder], stack: ExitStack) -> dict[str, Encoder]:
        found = dict(encoders)
        for name in names:
            if time.perf_counter() - began > limit_seconds:
                _LOGGER.warning("%s was not measured: %.0f s are over", name, limit_seconds)
                continue
            progress(name)
            if encoder := _open(check, name, stack):
                found[name] = encoder
        return found

    found: list[TimedRounds] = []
    with ExitStack() as stack:
        progress(plain)
        alone = {plain: check(plain, stack)}
        for names in [others] if small or not others else [[name] for name in others]:
            with ExitStack() as own:
                encoders = opened(names, alone, own)
                if len(encoders) > 1 or not found:
                    found.append(measure(encoders, texts, round_seconds, clock))
    for name, error in [pair for timed in found for pair in timed.failed.items()]:
        _LOGGER.warning("%s does not run here and is left out: %s", name, error)
    speeds = _joined(plain, found).speeds
    measured = [v for v in bundle.manifest.variants if v.name in speeds.tokens_per_second]
    best = _affordable(bundle, variant_choice.rank(measured, objective, speeds))
    return decided(measured, objective, best, speeds)


def _joined(plain: str, parts: Sequence[TimedRounds]) -> TimedRounds:
    """One Timed of several that each timed the plain variant: seconds are scaled so that plain took the same in all."""
    first, *others = parts
    throughput, latency = dict(first.throughput), dict(first.latency)
    for part in others:
        throughput |= _scaled(part.throughput, plain, first.throughput[plain])
        latency |= _scaled(part.latency, plain, first.latency[plain])
    return TimedRounds(throughput, latency, any(part.busy for part in parts), {})


def _scaled(rounds: Rounds, plain: str, expected: Sequence[VariantTiming]) -> dict[str, list[VariantTiming]]:
    found = rounds[plain]
    wall = _wall(expected) / _wall(found)
    cpu = _cpu(expected) / _cpu(found) if _cpu(found) else 1.0
    return {
        name: [VariantTiming(each.wall * wall, each.cpu * cpu) for each in all]
        for name, all in rounds.items()
        if name != plain
    }


def _wall(rounds: Sequence[VariantTiming]) -> float:
    return statistics.median([each.wall for each in rounds])


def _cpu(rounds: Sequence[VariantTiming]) -> float:
    return statistics.median([each.cpu for each in rounds])


def _affordable(bundle: Bundle, ranked: Sequence[Variant]) -> str:
    for variant in ranked:
        if variant_choice.within_recall_budget(bundle.manifest.quality, variant.name):
            return variant.name
    raise GateError(
        "no variant that runs on this machine stays within the --max-recall-drop the bundle was exported with: "
        "name one with --variant if you accept the loss, or export with a target that suits this machine"
    )


class ChosenVariant(NamedTuple):
    """The variant a server takes, and what its log should say about it."""

    variant: str
    remark: str | None


def choose_variant(bundle: Bundle, cache: Path | None = None) -> ChosenVariant:
    """The choice of a machine like this one, or, where there is none, a quick measurement, kept for the next start."""
    found = variant_choice.known(bundle, cache)
    if found and find_spec(runtime := bundle.variant(found.variant).runtime):
        return ChosenVariant(found.variant, None)
    why = (
        f"{found.variant} needs {runtime}, which is not installed here"
        if found
        else variant_choice.other_machine_warning(bundle)
    )
    _LOGGER.warning("%s: measuring again, at most some %.0f s", why, _AT_START_SECONDS)
    objective = bundle.manifest.choice.objective
    made = remeasure(bundle, objective, round_seconds=_QUICK_SECONDS, limit_seconds=_AT_START_SECONDS, certified=False)
    return ChosenVariant(
        made.variant, f"{why}: measured again for {objective}, {made.variant} it is; {_kept(bundle, made, cache)}"
    )


def _kept(bundle: Bundle, made: VariantChoice, cache: Path | None) -> str:
    try:
        return f"kept in {variant_choice.save(bundle, made, cache)}"
    except OSError as error:
        return (
            f"not kept, {error.filename} cannot be written ({error.strerror}): the next start measures again, unless "
            f"--cache ({variant_choice.CACHE}) names a folder that can"
        )


def _order(bundle: Bundle) -> list[str]:
    """The plain one, which all are held against, the bundle's choice, then the others by their recorded speed."""
    speeds = bundle.manifest.choice.tokens_per_second
    others = sorted((v.name for v in bundle.manifest.variants), key=lambda name: -speeds.get(name, 0.0))
    return list(dict.fromkeys([bundle.plain.name, bundle.manifest.choice.variant, *others]))


def _open(check: Callable[[str, ExitStack], Encoder], name: str, stack: ExitStack) -> Encoder | None:
    """None, with a warning, for a variant that this machine cannot run."""
    try:
        return check(name, stack)
    except (MismatchError, MissingExtra, EngineError, GateError) as error:
        _LOGGER.warning("%s does not run here and is left out: %s", name, error)
        return None


def _checked(bundle: Bundle, name: str, stack: ExitStack, *, certified: bool, cache: Path | None) -> Encoder:
    """Open a variant until `stack` ends. Raises GateError if its golden texts or its shapes are wrong here."""
    with ExitStack() as own:
        encoder = own.enter_context(Encoder.open(bundle, name, task=None))
        if certified:
            shapes.ensure(encoder, cache)
        golden.check(encoder)  # the fastest wrong vectors must not be what is chosen
        stack.enter_context(own.pop_all())
    return encoder


def _slice(tokenizer: Tokenizer, texts: Sequence[Text], wanted: int) -> tuple[list[Text], int]:
    """The first texts that make up `wanted` tokens, over and over if they are few, and how many tokens they are."""
    lengths = tokenizer(texts).lengths
    lot: list[Text] = []
    total = 0
    while total < wanted and any(lengths):
        for text, length in zip(texts, lengths, strict=True):
            if not length:  # no tokens, no vector
                continue
            lot.append(text)
            total += length
            if total >= wanted:
                break
    return lot, total


def _short(tokenizer: Tokenizer, texts: Sequence[Text]) -> list[Text]:
    """Texts nearest to _SHORT_TOKENS in length, each once, in an order in which neighbours differ."""
    lengths = tokenizer(texts).lengths
    rows = [row for row, length in enumerate(lengths) if length]
    near = (min(rows, key=lambda row: abs(lengths[row] - wanted)) for wanted in _SHORT_TOKENS)
    return [texts[row] for row in dict.fromkeys(near)]
