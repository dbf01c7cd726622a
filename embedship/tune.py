"""How fast is each variant on this machine, through the encoder, on real texts? Run by export, `tune`, and `serve`."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from embedship import choice, golden, hardware, shapes
from embedship.bundle import Bundle, Choice, Objective, Variant
from embedship.choice import Speeds
from embedship.encoder import Encoder
from embedship.errors import EngineError, GateError, MismatchError, MissingExtra
from embedship.golden import Golden
from embedship.tokens import Text, Tokenizer

# A round takes the slowest variant about this long: some six batches on two cores. With three, one core idles at the
# end of every round and all figures are a fifth too low.
ROUND_SECONDS = 1.2
# At the start of a server: less exact, and soon over.
_QUICK_SECONDS = 0.4
_AT_START_SECONDS = 10.0
_ROUNDS = 2
_PILOT_TOKENS = 1_500  # one batch, so one stream
# One short query: as long as questions are, special tokens included.
_SHORT_TOKENS = 12
_TRIES, _TRY_SECONDS = 21, 0.4

_LOGGER = logging.getLogger(__name__)


def measure(encoders: Mapping[str, Encoder], texts: Sequence[Text], round_seconds: float = ROUND_SECONDS) -> Speeds:
    """Tokens a second (special tokens counted, padding not) on `texts`, and seconds for a short one of them alone.

    Rounds are interleaved, and the faster one counts: the first also warms up, and what slows a round down on a shared
    machine is never the variant.
    """
    first = next(iter(encoders.values()))
    pilot, tokens = _slice(first.tokenizer, texts, _PILOT_TOKENS)
    slowest = tokens / max(_seconds(encoder, pilot) for encoder in encoders.values())
    lot, tokens = _slice(first.tokenizer, texts, int(slowest * first.engine.streams * round_seconds))
    rounds = [{name: tokens / _seconds(encoder, lot) for name, encoder in encoders.items()} for _ in range(_ROUNDS)]
    short = _short(first.tokenizer, texts)
    return Speeds(
        {name: round(max(speeds[name] for speeds in rounds), 1) for name in encoders},
        {name: round(_latency(encoder, short), 6) for name, encoder in encoders.items()},
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
) -> Choice:
    """Measure the variants that run here, one after another so that one at a time takes memory, and choose.

    `texts` are by default the bundle's golden ones. After `limit_seconds` no further variant is begun; the bundle's own
    choice is among the first two. A shape certificate that is not known is made and kept in `cache`, unless `certified`
    says that it is not wanted now. What the bundle's quality budget left out stays out.
    """
    texts = list(texts) or Golden.load(bundle).real
    tokens: dict[str, float] = {}
    latency: dict[str, float] = {}
    began = time.perf_counter()
    for name in _order(bundle):
        if tokens and time.perf_counter() - began > limit_seconds:
            _LOGGER.warning("%s was not measured: %.0f s are over", name, limit_seconds)
            continue
        progress(name)
        if speeds := _one(bundle, name, texts, round_seconds, certified, cache):
            tokens |= speeds.tokens_per_second
            latency |= speeds.latency_seconds
    measured = [v for v in bundle.manifest.variants if v.name in tokens]
    best = choice.rank(measured, objective, Speeds(tokens, latency))
    return Choice(
        objective=objective,
        variant=_affordable(bundle, best),
        machine=hardware.machine(),
        tokens_per_second=tokens,
        latency_seconds=latency,
    )


def _affordable(bundle: Bundle, ranked: Sequence[Variant]) -> str:
    for variant in ranked:
        if choice.affordable(bundle.manifest.quality, variant.name):
            return variant.name
    raise GateError(
        "no variant that runs on this machine stays within the --max-recall-drop the bundle was exported with: "
        "name one with --variant if you accept the loss, or export with a target that suits this machine"
    )


class Settled(NamedTuple):
    """The variant a server takes, and what its log should say about it."""

    variant: str
    remark: str | None


def settle(bundle: Bundle, cache: Path | None = None) -> Settled:
    """The choice of a machine like this one, or, where there is none, a quick measurement, kept for the next start."""
    if found := choice.known(bundle, cache):
        return Settled(found.variant, None)
    why = choice.foreign(bundle)
    _LOGGER.warning("%s: measuring again, at most some %.0f s", why, _AT_START_SECONDS)
    objective = bundle.manifest.choice.objective
    made = remeasure(bundle, objective, round_seconds=_QUICK_SECONDS, limit_seconds=_AT_START_SECONDS, certified=False)
    return Settled(
        made.variant, f"{why}: measured again for {objective}, {made.variant} it is; {_kept(bundle, made, cache)}"
    )


def _kept(bundle: Bundle, made: Choice, cache: Path | None) -> str:
    try:
        return f"kept in {choice.save(bundle, made, cache)}"
    except OSError as error:
        return (
            f"not kept, {error.filename} cannot be written ({error.strerror}): the next start measures again, unless "
            f"--cache ({choice.CACHE}) names a folder that can"
        )


def _order(bundle: Bundle) -> list[str]:
    """The plain one, which all are held against, the bundle's choice, then the others by their recorded speed."""
    speeds = bundle.manifest.choice.tokens_per_second
    others = sorted((v.name for v in bundle.manifest.variants), key=lambda name: -speeds.get(name, 0.0))
    return list(dict.fromkeys([bundle.plain.name, bundle.manifest.choice.variant, *others]))


def _one(
    bundle: Bundle, name: str, texts: Sequence[Text], round_seconds: float, certified: bool, cache: Path | None
) -> Speeds | None:
    """None, with a warning, for a variant that this machine cannot run."""
    try:
        with Encoder.open(bundle, name, task=None) as encoder:
            if certified:
                shapes.ensure(encoder, cache)
            golden.check(encoder)  # the fastest wrong vectors must not be what is chosen
            return measure({name: encoder}, texts, round_seconds)
    except (MismatchError, MissingExtra, EngineError, GateError) as error:
        if name == bundle.plain.name:
            raise
        _LOGGER.warning("%s does not run here and is left out: %s", name, error)
        return None


def _slice(tokenizer: Tokenizer, texts: Sequence[Text], wanted: int) -> tuple[list[Text], int]:
    """The first texts that make up `wanted` tokens, over and over if they are few, and how many tokens they are."""
    lengths = tokenizer(texts).lengths
    lot: list[Text] = []
    total = 0
    while total < wanted and any(lengths):
        for text, length in zip(texts, lengths, strict=True):
            lot.append(text)
            total += length
            if total >= wanted:
                break
    return lot, total


def _short(tokenizer: Tokenizer, texts: Sequence[Text]) -> Text:
    lengths = tokenizer(texts).lengths
    return min(zip(texts, lengths, strict=True), key=lambda pair: abs(pair[1] - _SHORT_TOKENS))[0]


def _latency(encoder: Encoder, text: Text) -> float:
    """Median seconds of one text alone, at most _TRIES times; the first try only warms up."""
    _seconds(encoder, [text])
    took: list[float] = []
    while len(took) < 3 or (len(took) < _TRIES and sum(took) < _TRY_SECONDS):
        took.append(_seconds(encoder, [text]))
    return statistics.median(took)


def _seconds(encoder: Encoder, texts: list[Text]) -> float:
    started = time.perf_counter()
    encoder.encode(texts)
    return time.perf_counter() - started
