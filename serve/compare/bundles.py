"""Comparison of two bundles: golden texts, vectors of the queries, search results, speed, size and memory."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec

from embedship import golden, variant_choice
from embedship import queries as query_encoding
from embedship.bundle import Bundle
from embedship.codes import Vectors, cosine
from embedship.encoder import Encoder
from embedship.errors import GateError, UsageError
from embedship.files import qrels
from embedship.serve.compare import footprint, gates, pace, parity, rankings, sources
from embedship.serve.compare.gates import CompareThresholds, build_report
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
    """Inputs in addition to the queries.

    If a variant is None, the chosen variant of the bundle is used. With `rounds` 0, speed and memory are not measured.
    """

    sources: DocumentSources
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
    old: Path, new: Path, questions: QuestionSet, limits: CompareThresholds, options: CompareOptions
) -> ComparisonResult:
    """Compare two bundles. If NEW is worse, the report says so, and no error is raised.

    Raises UsageError for options that do not fit, UnsafeError for a damaged bundle or index, EngineError.
    """
    opened = [Bundle.open(folder) for folder in (old, new)]
    names = (options.variant, options.new_variant)
    variants = [variant_choice.variant(b, name).name for b, name in zip(opened, names, strict=True)]
    with ExitStack() as stack:
        both = BundlePair(*(stack.enter_context(Encoder.open(b, v)) for b, v in zip(opened, variants, strict=True)))
        sides = [_side(encoder) for encoder in both]
        results = [
            gates.check_model(sides[0], sides[1], limits),
            _check_own_golden("OLD", both.old),
            _check_own_golden("NEW", both.new),
        ]
        if any(gate.passed is False for gate in results):  # other measurements of wrong vectors would be useless
            report = build_report(sides[0], sides[1], questions, results, CompareMeasurements())
            return ComparisonResult(report, PerQueryValues())
        documents = sources.open_sources(options.sources, both.old, both.new, stack)
        questions = _with_labels(questions, options.qrels, documents)
        require_decidable(both.same_model, documents is not None, questions, limits)
        if options.rounds:  # starts one process per bundle, so only after every check that can refuse the input
            sides = [_with_memory(side, encoder, questions) for side, encoder in zip(sides, both, strict=True)]
        measured, per_query = _measure(both, questions, documents, options.rounds)
        floor = parity.cosine_floor(both.old, both.new)
        results += gates.check_measurements(measured, len(questions), both.same_model, floor, limits)
        results += gates.check_sizes(sides[0], sides[1], limits)
        return ComparisonResult(build_report(sides[0], sides[1], questions, results, measured), per_query)


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


def _with_memory(side: ComparedSide, encoder: Encoder, questions: QuestionSet) -> ComparedSide:
    texts = questions.texts[:_FOOTPRINT_TEXTS]
    memory = footprint.measure_peak_memory(encoder.bundle, encoder.variant.name, texts)
    return msgspec.structs.replace(side, memory_bytes=memory)


def _check_own_golden(name: str, encoder: Encoder) -> GateResult:
    """Check a bundle against its own golden vectors."""
    try:
        result = golden.check(encoder)
    except GateError as error:
        return GateResult(f"golden texts of {name}", False, f"{name}: {error}")
    reason = (
        f"{name} computes the checkpoint's vectors of its {result.texts} golden texts: cosine min "
        f"{result.minimum:.5f}, mean {result.mean:.5f}."
    )
    return GateResult(f"golden texts of {name}", True, reason, result.minimum)


def _with_labels(questions: QuestionSet, path: Path | None, documents: SourcePair | None) -> QuestionSet:
    """Add the judgements of --qrels. Raises UsageError unless every label names a document of OLD."""
    if documents is None:
        if path:
            raise UsageError("--qrels needs documents to judge: give --index INDEX, or --corpus CORPUS.jsonl")
        return questions
    if not (path or questions.labelled):
        return questions
    known = documents.old.ids
    labelled = questions.with_judgements(qrels.read(path, known, "OLD's documents")) if path else questions
    for relevant in labelled.relevant:
        if unknown := relevant - known:
            raise UsageError(f"a query has {min(unknown)!r} in `relevant`, but OLD contains no document with this id")
    return labelled


def require_decidable(same_model: bool, documents: bool, questions: QuestionSet, limits: CompareThresholds) -> None:
    """Raise UsageError if labels would be ignored, or if nothing could show the quality of another model."""
    if questions.labelled and not documents:
        raise UsageError(
            "the queries are labelled (`relevant`), but no documents are searched, so the labels cannot be used. Give "
            "--index INDEX or --corpus CORPUS.jsonl (two servers: start both with --index), or queries without labels"
        )
    if not same_model and not (documents and (limits.min_recall is not None or questions.labelled)):
        raise UsageError(
            "NEW is another model, and no option measures its quality. Give labelled queries (`relevant`, or --qrels), "
            "or --min-recall, the minimum similarity of the rankings. Also give the documents that both models search: "
            "--index and --new-index, or --corpus"
        )


def _measure(
    both: BundlePair, questions: QuestionSet, documents: SourcePair | None, rounds: int
) -> tuple[CompareMeasurements, PerQueryValues]:
    old, new = _encode(both, questions)
    cosines = cosine(old, new) if both.same_model else None
    rankings_of_both = documents.search(old, new) if documents else None
    shares = rankings.overlap_ratios(*rankings_of_both) if rankings_of_both else None
    return CompareMeasurements(
        golden=parity.golden_parity(both.old.bundle, both.new) if both.same_model else None,
        vectors=None if cosines is None else parity.summarise(cosines),
        agreement=rankings.measure_agreement(shares, documents.what) if documents and shares is not None else None,
        labels=rankings.measure_labels(*rankings_of_both, questions.relevant) if rankings_of_both else None,
        drift=parity.measure_drift(both.old, both.new, old, new) if both.same_model else None,
        speed=pace.measure_speedup(both.old, both.new, questions.texts, rounds) if rounds else None,
    ), PerQueryValues(cosines, shares)


def _encode(both: BundlePair, questions: QuestionSet) -> tuple[Vectors, Vectors]:
    """Return OLD's and NEW's vectors of the queries, (n, dim) float32 each, ready to compare."""
    with bar("queries", 2 * len(questions)) as advance:
        old, new = (
            sources.normalise_for_comparison(encoder, query_encoding.encode(encoder, questions.texts, advance))
            for encoder in both
        )
    return old, new
