"""Judges texts in batches and in concurrent requests: each vector must be the same as for the text alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from embedship.codes import Vectors, cosine
from embedship.serve.audit.answers import BatchAnswer, BatchTest
from embedship.serve.audit.report import CheckSummary, FaultKind, ServerFault
from embedship.serve.audit.vectors import shown

_ORDER = (BatchTest.TOGETHER, BatchTest.SHUFFLED, BatchTest.MANY, BatchTest.SAME_LENGTH, BatchTest.CONCURRENT)
# If more than this share of the lengths is wrong, the length is not the cause.
_MOST_LENGTHS = 0.5


@dataclass(slots=True)
class BatchFindings:
    """What one batch test found. `lengths`: token count -> lowest cosine, for each length with wrong vectors."""

    texts: int = 0
    rejected: int = 0
    cosines: list[float] = field(default_factory=list)
    wrong: list[tuple[str, float]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    swapped: int = 0  # number of wrong vectors that belong to another text
    pattern: str = ""
    in_order: bool = True
    lengths: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BatchVerdict:
    """Summaries and faults of all batch tests. `lengths`: as in BatchFindings; empty if the length is not the cause."""

    checks: tuple[CheckSummary, ...]
    faults: tuple[ServerFault, ...]
    lengths: Mapping[int, float]


def judge_batches(batches: Sequence[BatchAnswer], alone: Mapping[str, Vectors], floor: float) -> BatchVerdict:
    """Compare each vector of the batches with the vector of its text in `alone`. Texts without one are left out."""
    found = {test: BatchFindings() for test in _ORDER}
    for batch in batches:
        _compare(found[batch.test], batch, alone, floor)
    checks = tuple(_summary(test, each) for test, each in found.items() if each.texts)
    same = found[BatchTest.SAME_LENGTH]
    tried = sum(batch.test is BatchTest.SAME_LENGTH for batch in batches)
    mixed_is_right = not any(found[test].wrong for test in _ORDER if test is not BatchTest.SAME_LENGTH)
    lengths = same.lengths if mixed_is_right and len(same.lengths) <= _MOST_LENGTHS * tried else {}
    return BatchVerdict(checks, tuple(_faults(found, bool(lengths))), lengths)


def _compare(found: BatchFindings, batch: BatchAnswer, alone: Mapping[str, Vectors], floor: float) -> None:
    found.in_order &= batch.in_order
    found.texts += len(batch.answers)
    found.rejected += sum(answer.rejected for answer in batch.answers)
    found.errors += [answer.error for answer in batch.answers if answer.error and not answer.rejected]
    pairs = [(a.text, a.vector) for a in batch.answers if a.vector is not None and a.text in alone]
    if not pairs:
        return
    texts = [text for text, _ in pairs]
    rows = np.stack([vector for _, vector in pairs])
    own = np.stack([alone[text] for text in texts])
    if rows.shape != own.shape:
        found.errors.append(f"vectors of {rows.shape[1]} dimensions, and of {own.shape[1]} alone")
        return
    cosines = cosine(rows, own)
    found.cosines += cosines.tolist()
    wrong = [place for place in range(len(texts)) if not cosines[place] >= floor]
    found.wrong += [(texts[place], float(cosines[place])) for place in wrong]
    if wrong and batch.tokens is not None:
        found.lengths[batch.tokens] = min(float(cosines[place]) for place in wrong)
    sources = {place: _source(rows[place], own, floor) for place in wrong}
    found.swapped += sum(source is not None and texts[source] != texts[place] for place, source in sources.items())
    if len(wrong) > 1 and all(sources[place] == len(texts) - 1 - place for place in wrong):
        found.pattern = "the order is reversed"
    elif len(wrong) > 1 and all(sources[place] is not None for place in wrong) and batch.test is BatchTest.SHUFFLED:
        found.pattern = _sorted_pattern(texts, {p: s for p, s in sources.items() if s is not None})


def _source(row: Vectors, own: Vectors, floor: float) -> int | None:
    """Return the index in `own` of the text that this vector belongs to; None if there is none."""
    cosines = cosine(np.broadcast_to(row, own.shape), own)
    if not np.isfinite(cosines).any():
        return None
    best = int(np.nanargmax(cosines))
    return best if cosines[best] >= floor else None


def _sorted_pattern(texts: Sequence[str], sources: Mapping[int, int]) -> str:
    for name, key in (("shortest", 1), ("longest", -1)):
        order = sorted(range(len(texts)), key=lambda place: key * len(texts[place]))
        if all(len(texts[order[place]]) == len(texts[source]) for place, source in sources.items()):
            return f"as if sorted by length, {name} first"
    return ""


def _summary(test: BatchTest, found: BatchFindings) -> CheckSummary:
    wrong = len(found.wrong) + len(found.errors)
    cosines = np.asarray(found.cosines)
    return CheckSummary.from_cosines(
        str(test), "the same text alone", found.texts, cosines, wrong=wrong, rejected=found.rejected
    )


def _faults(found: Mapping[BatchTest, BatchFindings], only_lengths: bool) -> list[ServerFault]:
    faults: list[ServerFault] = []
    mixed_up = {test: each for test, each in found.items() if each.wrong and 2 * each.swapped >= len(each.wrong)}
    if mixed_up:
        faults.append(_order_fault(mixed_up))
    if unordered := [str(test) for test, each in found.items() if not each.in_order]:
        message = "the entries of a response are not in the order of the texts"
        hint = "they are right by `index`, but many clients ignore it and mix up the texts"
        faults.append(ServerFault(FaultKind.ORDER, message, (hint, f"seen in: {', '.join(unordered)}")))
    others = {test: each for test, each in found.items() if each.wrong and test not in mixed_up}
    if mixed_up:  # SAME_LENGTH cannot show a mix-up: its second text has no vector in `alone`
        others.pop(BatchTest.SAME_LENGTH, None)
    if others and not only_lengths:
        faults.append(_batch_fault(others))
    if errors := {test: each for test, each in found.items() if each.errors}:
        evidence = tuple(
            f"{test}: {len(each.errors)} of {each.texts}: {each.errors[0]}" for test, each in errors.items()
        )
        faults.append(ServerFault(FaultKind.FAILED, "the server fails on texts that it answers alone", evidence))
    return faults


def _order_fault(found: Mapping[BatchTest, BatchFindings]) -> ServerFault:
    at_once = set(found) == {BatchTest.CONCURRENT}
    message = (
        "the server mixes up the answers of requests that it gets at the same time"
        if at_once
        else "the server returns vectors in another order than the texts"
    )
    patterns = Counter(each.pattern for each in found.values() if each.pattern)
    evidence = [
        f"{test}: {each.swapped} of {each.texts} vectors are those of another text" for test, each in found.items()
    ]
    return ServerFault(FaultKind.ORDER, message, (*evidence, *(pattern for pattern, _ in patterns.most_common(1))))


def _batch_fault(found: Mapping[BatchTest, BatchFindings]) -> ServerFault:
    message = (
        "vectors differ when the server gets requests at the same time"
        if set(found) == {BatchTest.CONCURRENT}
        else "the vector of a text depends on the other texts of its request"
    )
    evidence = []
    for test, each in found.items():
        text, cosines = min(each.wrong, key=lambda pair: pair[1] if pair[1] == pair[1] else -2)
        evidence.append(
            f"{test}: {len(each.wrong)} of {each.texts} texts differ from the same text alone, the worst with cosine "
            f"{cosines:.4f}: {shown(text)}"
        )
    return ServerFault(FaultKind.BATCH, message, tuple(evidence))
