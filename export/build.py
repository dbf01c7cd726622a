"""Export: build the variants of a checkpoint, run the gates, choose a variant and write the bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from embedship import hardware, queries, tune, variant_choice
from embedship.bundle import (
    GOLDEN,
    NO_CODES,
    REFERENCE,
    TOKENIZER,
    Bundle,
    BundleManifest,
    ExportStage,
    InvarianceReport,
    Objective,
    ParityReport,
    Precision,
    RetrievalReport,
    Task,
    Variant,
    VariantChoice,
    fingerprint,
)  # fmt: skip
from embedship.codes import Vectors
from embedship.encoder import Encoder
from embedship.export import probe_pairs, probe_texts
from embedship.export.checkpoint import layout
from embedship.export.checkpoint.embedder import embedding
from embedship.export.gates import parity, retrieval, shape_certificates, vector_codes
from embedship.export.gates.probe_set import ProbeSet
from embedship.export.gates.retrieval import VariantDecision
from embedship.export.inputs import ExportInputs, drop_empty_texts, prepare_export, without_pairs
from embedship.export.options import ExportOptions
from embedship.export.output_folder import output_folder
from embedship.export.report import provenance, sbom
from embedship.export.report.page import write as write_report
from embedship.export.steps import StepTimer
from embedship.export.variant_failures import VariantFailures, failing
from embedship.export.variants import recipes as variants_recipes
from embedship.files import sealed
from embedship.files.sealed import sha256_of
from embedship.monitor.drift.reference import DriftReference
from embedship.tokens import Text, Tokenizer
from embedship.variant_choice import VariantSpeeds

# 100 texts calibrate int8 as well as 300 (MiniLM: mean cosine 0.9978 and 0.9977) if adversarial texts are included.
# With 64 texts an export is 1 s shorter, but keeps 99.8% of recall@10 on MedQuAD instead of 100.1%.
_CALIBRATION_TEXTS, _TEST_TEXTS, _TIMED_TEXTS = 100, 200, 300
# Number of texts on which the rescoring multiplier is measured, unless --eval provides a corpus.
_MAX_SAMPLE_TEXTS = 1000

_NAN = float("nan")
_UNMEASURED = (
    ParityReport(texts=0, longest=0, minimum=_NAN, mean=_NAN, overlap=_NAN, length=_NAN, worst_text=""),
    InvarianceReport(texts=0, shuffled=_NAN, over_padded=_NAN, other_side=None, worst_text=""),
)


def build(
    checkpoint: Path | str, out: Path, options: ExportOptions | None = None, steps: StepTimer | None = None
) -> Bundle:
    """Export a checkpoint (a folder or a hub id) to a new bundle at `out` and return the bundle.

    An optional variant that fails is left out and recorded in the manifest. Raises UsageError or UnsafeError if the
    checkpoint cannot be exported, and GateError if the plain variant or a named variant fails. After an error, nothing
    is left at `out` or next to it.
    """
    options, steps = options or ExportOptions(), steps or StepTimer()
    with output_folder(out, options.force) as folder, prepare_export(checkpoint, options, steps) as inputs:
        bundle = ExportRun(inputs, folder, options, steps).run()
        if inputs.signer:
            inputs.signer.sign(bundle)
    return Bundle.open(out)


class ExportRun:
    """One running export, in its temporary folder."""

    def __init__(self, inputs: ExportInputs, folder: Path, options: ExportOptions, steps: StepTimer) -> None:
        checkpoint, texts = inputs.checkpoint, inputs.texts
        layout.copy(checkpoint.folder, folder, checkpoint.tokenizer_json, options.truncate_dim)
        self.checkpoint, self.folder, self.options, self.steps = checkpoint, folder, options, steps
        self.tokenizer = Tokenizer(folder / TOKENIZER, checkpoint.pipeline)
        self.texts = drop_empty_texts(
            texts._replace(real=_sample(texts.real, options)), self.tokenizer, checkpoint, steps
        )
        # Calibration texts and test texts must differ: int8 may not be judged on the texts that it was calibrated on.
        calibration_count = min(_CALIBRATION_TEXTS, (len(self.texts.real) + 1) // 2)
        self.calibration_texts, rest = self.texts.real[:calibration_count], self.texts.real[calibration_count:]
        self.test_texts, self.search_texts = (
            rest[:_TEST_TEXTS] or self.calibration_texts,
            rest[_TEST_TEXTS:] or self.texts.real,
        )
        self.queries, self.evaluation = self.texts.queries, self.texts.evaluation
        self.recipes, self.isa = inputs.recipes, inputs.isa
        named = bool(options.variants) and not options.skip_failed
        self.failures = VariantFailures(folder, list(self.recipes), named, steps)
        self.cosines: dict[str, npt.NDArray[np.float64]] = {}  # by variant: cosine of each probe to the checkpoint
        self.provenance = provenance.describe_export(checkpoint.folder, options)

    def run(self) -> Bundle:
        probes = self._probes()
        built = self._make()
        provisional = self._write([self._variant(each) for each in built])
        with ExitStack() as stack:
            finished, encoders = self._gate(built, provisional, probes, stack)
            self._reference(provisional.fingerprint, encoders)
            speeds = self._speeds(self.failures.without_failed(finished), encoders)
            ranked = variant_choice.rank(self.failures.without_failed(finished), self.options.objective, speeds)
            finished, names = self._certify(finished, [v.name for v in ranked], encoders)
            decision = self._retrieval(names, encoders)
            with failing(decision.chosen, ExportStage.SHAPES):
                finished = shape_certificates.certify_variant(finished, decision.chosen, encoders, self.steps)
        self.codes = decision.codes
        passed = self.failures.without_failed(finished)
        self._remove(built, passed)
        return self._write(
            passed, tune.make_choice(passed, self.options.objective, decision.chosen, speeds), decision.quality
        )

    def _gate(
        self,
        built: Sequence[variants_recipes.BuiltVariant],
        provisional: Bundle,
        probes: ProbeSet,
        stack: ExitStack,
    ) -> tuple[list[Variant], dict[str, Encoder]]:
        """Return the variants that passed and their encoders, which stay open until `stack` closes."""
        finished: list[Variant] = []
        encoders: dict[str, Encoder] = {}
        for each in built:
            with self.failures.optional(each.name), ExitStack() as own:
                with failing(each.name, ExportStage.LOAD):
                    encoder = own.enter_context(Encoder.open(provisional, each.name, task=None))
                finished.append(self._gated(each, encoder, probes))
                encoders[each.name] = encoder
                stack.enter_context(own.pop_all())
        return finished, encoders

    def _certify(
        self, finished: list[Variant], ranked: Sequence[str], encoders: Mapping[str, Encoder]
    ) -> tuple[list[Variant], list[str]]:
        """Certify the best variants in turn until one passes. Return all variants, and `ranked` from that one on."""
        for place, name in enumerate(ranked):
            with self.failures.optional(name), failing(name, ExportStage.SHAPES):
                return shape_certificates.certify_variant(finished, name, encoders, self.steps), list(ranked[place:])
        raise AssertionError("the plain variant is always ranked, and its failure stops the export")

    def _speeds(self, finished: Sequence[Variant], encoders: dict[str, Encoder]) -> VariantSpeeds:
        machine = hardware.machine()
        # float16 on a CPU runs through casts, so its speed means nothing: measure only what this machine can serve.
        runnable = {v.name: encoders[v.name] for v in finished if machine.meets(self.recipes[v.name].needs)}
        with self.steps.step("speed"):
            timed = tune.measure(runnable, self.texts.real[:_TIMED_TEXTS])
        for name, error in timed.failed.items():
            with self.failures.optional(name), failing(name, ExportStage.SPEED):
                encoders.pop(name)
                raise error
        return timed.speeds

    def _probes(self) -> ProbeSet:
        with self.steps.step("vectors of the checkpoint itself"):
            probes = ProbeSet.make(self.checkpoint, self.tokenizer, self.test_texts, self._short(calibrated=False))
            probes.golden(self.tokenizer).save(self.folder / GOLDEN)
        if self.options.task is Task.RERANK:
            self.codes = NO_CODES
            return probes
        with self.steps.step("ranges of int8 codes"):
            held_out = probes.vectors[probes.adversarial_count :]
            self.codes = vector_codes.fit(embedding(self.checkpoint), self.calibration_texts, held_out)
        return probes

    def _short(self, calibrated: bool) -> list[Text]:
        """Return texts of a few tokens, to calibrate or judge int8. Empty for a re-ranker: its pairs are long."""
        if self.options.task is Task.RERANK:
            return []
        texts = probe_texts.short(without_pairs(self.calibration_texts if calibrated else self.test_texts), calibrated)
        special = sum(map(len, self.tokenizer.special_tokens))
        lengths = self.tokenizer(texts).lengths
        return [text for text, n in zip(texts, lengths, strict=True) if 0 < n - special <= probe_texts.SHORT_TOKENS]

    def _make(self) -> list[variants_recipes.BuiltVariant]:
        feeds = variants_recipes.calibration_feeds(
            self.tokenizer, self.checkpoint, [*self.calibration_texts, *self._short(calibrated=True)]
        )
        floors = self.options.floors[Precision.INT8]
        context = variants_recipes.BuildContext(
            self.folder, self.checkpoint, feeds, self.isa, floors, self.options.converter
        )
        built = []
        for name, recipe in self.recipes.items():
            failures = self.failures
            step = self.steps.step(f"make {name}")
            with failures.optional(name), failures.cleaning(), failing(name, ExportStage.MAKE), step:
                built.append(variants_recipes.build_variant(name, recipe, context))
        return built

    def _gated(self, built: variants_recipes.BuiltVariant, encoder: Encoder, probes: ProbeSet) -> Variant:
        with self.steps.step(f"gate {built.name}"):
            agreement = parity.require(encoder, probes, self.options.floors)
            self.cosines[built.name] = agreement.cosines
        return self._variant(built, encoder.engine.precision, agreement.parity, agreement.invariance)

    def _variant(
        self,
        built: variants_recipes.BuiltVariant,
        precision: Precision | None = None,
        measured: ParityReport | None = None,
        certificate: InvarianceReport | None = None,
    ) -> Variant:
        """Describe a variant. Before its gate has run, it has figures that no floor accepts."""
        return Variant(
            name=built.name,
            runtime=built.recipe.runtime,
            path=built.recipe.path,
            weights=built.recipe.weights,
            quantisation=built.recipe.quantisation,
            # The gate runs on the CPU for every target. targets.cpu has already refused int8 files that this machine
            # would compute differently. float16 runs through casts here, with more digits than on a GPU.
            needs=built.recipe.needs if measured else (),
            precision=precision or built.recipe.weights,
            size=sum(path.stat().st_size for path in self._files(built)),
            fused=built.fused,
            parity=measured or _UNMEASURED[0],
            invariance=certificate or _UNMEASURED[1],
        )

    def _files(self, built: variants_recipes.BuiltVariant) -> list[Path]:
        """Return the files of a variant: its graph, and weights with the same stem."""
        graph = self.folder / built.recipe.path
        return [p for p in graph.parent.iterdir() if p.name.split(".", 1)[0] == graph.name.split(".", 1)[0]]

    def _remove(self, built: Sequence[variants_recipes.BuiltVariant], passed: Sequence[Variant]) -> None:
        """Delete the files of variants that failed, and folders that are then empty."""
        names = {variant.name for variant in passed}
        for each in built:
            if each.name not in names:
                for path in self._files(each):
                    path.unlink()
        for folder in {(self.folder / recipe.path).parent for recipe in self.recipes.values()}:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def _retrieval(self, ranked: list[str], encoders: dict[str, Encoder]) -> VariantDecision:
        """Choose from `ranked`, best first. With --eval, recall decides as well."""
        if self.options.task is Task.RERANK:
            return VariantDecision(ranked[0], NO_CODES, None)
        if self.evaluation is not None:
            budget = self.options.max_recall_drop
            return retrieval.on_questions(
                self.evaluation,
                embedding(self.checkpoint),
                encoders,
                ranked,
                budget,
                self.codes,
                self.steps,
                self.failures,
            )
        for name in ranked:
            step = self.steps.step("candidates for sign bits")
            with self.failures.optional(name), failing(name, ExportStage.RETRIEVAL), step:
                return retrieval.on_texts(
                    encoders[name], self.codes, without_pairs(self.search_texts), without_pairs(self.test_texts)
                )
        raise AssertionError("the plain variant is always ranked, and its failure stops the export")

    def _reference(self, model: str, encoders: dict[str, Encoder]) -> None:
        """Fit the drift reference on float32 vectors, and record how far each variant moves them."""
        log = self.queries
        if log is None:
            return
        with self.steps.step("drift reference"):
            vectors: dict[str, Vectors] = {}
            for name, encoder in list(encoders.items()):
                with self.failures.optional(name), failing(name, ExportStage.REFERENCE):
                    encoders.pop(name)
                    vectors[name] = queries.encode(encoder, log.texts)
                    encoders[name] = encoder
            fitted = DriftReference.fit(
                vectors[variants_recipes.PLAIN],
                model,
                prompt=queries.prompt(encoders[variants_recipes.PLAIN]),
                sessions=log.sessions,
                times=log.times,
                variants=vectors,
                seed=self.options.seed,
            )
            fitted.save(self.folder / REFERENCE)

    def _write(
        self,
        described: Sequence[Variant],
        decided: VariantChoice | None = None,
        measured: RetrievalReport | None = None,
    ) -> Bundle:
        tokenizer = sha256_of(self.folder / TOKENIZER)
        source, pipeline = self.checkpoint.source, self.checkpoint.pipeline
        placeholder = VariantChoice(
            objective=Objective.THROUGHPUT,
            variant=described[0].name,
            machine=hardware.machine(),
            tokens_per_second={},
            latency_seconds={},
        )
        manifest = BundleManifest(
            format=pipeline.task.manifest_format,
            fingerprint=fingerprint(source, pipeline, tokenizer),
            created=sealed.creation_time(),
            source=source,
            pipeline=pipeline,
            tokenizer_sha256=tokenizer,
            floors=self.options.floors,
            variants=tuple(described),
            choice=decided or placeholder,
            codes=self.codes,
            quality=measured,
            provenance=self.provenance,
            files={},
            left_out=tuple(self.failures.left_out) if decided and self.failures.left_out else msgspec.UNSET,
        )
        if decided:
            # The report shows vectors and their codes. A re-ranker has neither; its figures are in the manifest.
            if self.options.task is Task.EMBED:
                names = [variant.name for variant in described]
                write_report(self.folder, manifest, {name: self.cosines[name] for name in names})
            sbom.write(self.folder, manifest)
        return Bundle.write(self.folder, manifest)


def _sample(texts: Sequence[Text], options: ExportOptions) -> list[Text]:
    if options.task is Task.RERANK:
        return probe_pairs.sample(texts, _MAX_SAMPLE_TEXTS, options.seed)
    return [*probe_texts.sample(without_pairs(texts), _MAX_SAMPLE_TEXTS, options.seed)]
