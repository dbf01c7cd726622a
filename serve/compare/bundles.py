"""Two bundles: their golden texts, their vectors of the queries, what each finds, its speed, size and memory."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec

from embedship import golden, variant_choice
from embedship import queries as asking
from embedship.bundle import Bundle
from embedship.codes import Vectors, cosine
from embedship.encoder import Encoder
from embedship.errors import GateError, UsageError
from embedship.files import qrels
from embedship.serve.compare import footprint, gates, pace, parity, rankings, sources
from embedship.serve.compare.gates import CompareThresholds, of
from embedship.serve.compare.questions import QuestionSet
from embedship.serve.compare.report import (
    ComparedSide,
    CompareMeasurements,
    ComparisonResult,
    GateResult,
    PerQueryValues,
)
from embedship.serve.compare.sources import DocumentSources, SourcePair
from embedship.serve.progress import bar

_FOOTPRINT_TEXTS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareOptions:
    """`variant` and `new_variant` None: the chosen ones. rounds 0: neither speed nor memory is measured."""

    where: DocumentSources
    qrels: Path | None = None
    variant: str | None = None
    new_variant: str | None = None
    rounds: int = 5


class BundlePair(NamedTuple):
    old: Encoder
    new: Encoder

    @property
    def same_model(self) -> bool:
        return self.old.bundle.fingerprint == self.new.bundle.fingerprint


def compare(
    old: Path, new: Path, questions: QuestionSet, limits: CompareThresholds, wishes: CompareOptions
) -> ComparisonResult:
    """Raises UsageError, UnsafeError, EngineError; what is merely worse is in the report."""
    opened = [Bundle.open(folder) for folder in (old, new)]
    variants = [
        variant_choice.variant(b, v).name for b, v in zip(opened, (wishes.variant, wishes.new_variant), strict=True)
    ]
    with ExitStack() as stack:
        both = BundlePair(*(stack.enter_context(Encoder.open(b, v)) for b, v in zip(opened, variants, strict=True)))
        sides = [_side(encoder) for encoder in both]
        first = [gates.model(sides[0], sides[1], limits), _golden("OLD", both.old), _golden("NEW", both.new)]
        if any(gate.passed is False for gate in first):  # of wrong vectors nothing else is worth knowing
            return ComparisonResult(of(sides[0], sides[1], questions, first, CompareMeasurements()), PerQueryValues())
        documents = sources.opened(wishes.where, both.old, both.new, stack)
        questions = _judged(questions, wishes.qrels, documents)
        demand_a_decision(both.same_model, documents is not None, questions, limits)
        if wishes.rounds:  # a process each: after all that may be refused
            sides = [_weighed(side, encoder, questions) for side, encoder in zip(sides, both, strict=True)]
        measured, evidence = _measured(both, questions, documents, wishes.rounds)
        floor = parity.floor(both.old, both.new)
        made = [*first, *gates.judged(measured, len(questions), both.same_model, floor, limits)]
        made += gates.sizes(sides[0], sides[1], limits)
        return ComparisonResult(of(sides[0], sides[1], questions, made, measured), evidence)


def _side(encoder: Encoder) -> ComparedSide:
    bundle, variant = encoder.bundle, encoder.variant
    return ComparedSide(
        source=str(bundle.folder),
        model=bundle.manifest.source.name,
        fingerprint=bundle.fingerprint,
        variant=variant.name,
        precision=str(encoder.engine.precision),
        dimension=bundle.manifest.pipeline.dimension,
        bytes=sum(bundle.manifest.files[name].size for name in bundle.files_of(variant)),
    )


def _weighed(side: ComparedSide, encoder: Encoder, questions: QuestionSet) -> ComparedSide:
    texts = questions.texts[:_FOOTPRINT_TEXTS]
    memory = footprint.measure_peak_memory(encoder.bundle, encoder.variant.name, texts)
    return msgspec.structs.replace(side, memory_bytes=memory)


def _golden(name: str, encoder: Encoder) -> GateResult:
    """The bundle against its own golden vectors."""
    try:
        found = golden.check(encoder)
    except GateError as error:
        return GateResult(f"golden texts of {name}", False, f"{name}: {error}")
    said = f"{name} gives the checkpoint's vectors of its {found.texts} golden texts: cosine min {found.minimum:.5f}, "
    return GateResult(f"golden texts of {name}", True, f"{said}mean {found.mean:.5f}.", found.minimum)


def _judged(questions: QuestionSet, path: Path | None, documents: SourcePair | None) -> QuestionSet:
    """With labels, all of which name documents that OLD has. Raises UsageError."""
    if documents is None:
        if path:
            raise UsageError("--qrels judge documents: give --index INDEX, or --corpus CORPUS.jsonl")
        return questions
    if not (path or questions.labelled):
        return questions
    known = documents.old.ids
    found = questions.judged(qrels.read(path, known, "OLD's documents")) if path else questions
    for wanted in found.relevant:
        if strange := wanted - known:
            raise UsageError(f"a query names {min(strange)!r} as `relevant`, and OLD has no such document")
    return found


def demand_a_decision(same_model: bool, documents: bool, questions: QuestionSet, limits: CompareThresholds) -> None:
    """Raise UsageError where labels would be dropped, or nothing would say whether another model is any good."""
    if questions.labelled and not documents:
        raise UsageError(
            "queries are labelled (`relevant`), and nothing is searched that they could judge: give --index INDEX or "
            "--corpus CORPUS.jsonl, of two servers serve both with --index; or give queries without labels"
        )
    if not same_model and not (documents and (limits.min_recall is not None or questions.labelled)):
        raise UsageError(
            "NEW is another model, and nothing was given to judge it by: label the queries (`relevant`, or --qrels), "
            "or say with --min-recall how alike the rankings must be; and let both search, by --index and --new-index "
            "or by --corpus"
        )


def _measured(
    both: BundlePair, questions: QuestionSet, documents: SourcePair | None, rounds: int
) -> tuple[CompareMeasurements, PerQueryValues]:
    old, new = _encoded(both, questions)
    cosines = cosine(old, new) if both.same_model else None
    answered = documents.ranked(old, new) if documents else None
    shares = rankings.overlaps(*answered) if answered else None
    return CompareMeasurements(
        golden=parity.golden(both.old.bundle, both.new) if both.same_model else None,
        vectors=None if cosines is None else parity.of(cosines),
        agreement=rankings.agreement(shares, documents.what) if documents and shares is not None else None,
        labels=rankings.labels(*answered, questions.relevant) if answered else None,
        drift=parity.drift(both.old, both.new, old, new) if both.same_model else None,
        speed=pace.measure_speedup(both.old, both.new, questions.texts, rounds) if rounds else None,
    ), PerQueryValues(cosines, shares)


def _encoded(both: BundlePair, questions: QuestionSet) -> tuple[Vectors, Vectors]:
    """(n, dim) of the queries, OLD's and NEW's, ready to compare."""
    with bar("queries", 2 * len(questions)) as advance:
        old, new = (sources.comparable(e, asking.encode(e, questions.texts, advance)) for e in both)
    return old, new
