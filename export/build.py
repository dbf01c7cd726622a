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
from embedship.export.inputs import ExportInputs, encodable, prepare_export, without_pairs
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
_CALIBRATED, _JUDGED, _TIMED = 100, 200, 300
# Number of texts on which the rescoring multiplier is measured, unless --eval provides a corpus.
_SEARCHED = 1000

_NAN = float("nan")
_UNMEASURED = (
    ParityReport(texts=0, longest=0, minimum=_NAN, mean=_NAN, overlap=_NAN, length=_NAN, worst_text=""),
    InvarianceReport(texts=0, shuffled=_NAN, over_padded=_NAN, other_side=None, worst_text=""),
)


def build(
    checkpoint: Path | str, out: Path, wishes: ExportOptions | None = None, steps: StepTimer | None = None
) -> Bundle:
    """Export a checkpoint (a folder or a hub id) to a new bundle at `out` and return the bundle.

    An optional variant that fails is left out and recorded in the manifest. Raises UsageError or UnsafeError if the
    checkpoint cannot be exported, and GateError if the plain variant or a named variant fails. After an error, nothing
    is left at `out` or next to it.
    """
    wishes, steps = wishes or ExportOptions(), steps or StepTimer()
    with output_folder(out, wishes.force) as folder, prepare_export(checkpoint, wishes, steps) as ready:
        made = ExportRun(ready, folder, wishes, steps).run()
        if ready.signer:
            ready.signer.sign(made)
    return Bundle.open(out)


class ExportRun:
    """One running export, in its temporary folder."""

    def __init__(self, ready: ExportInputs, folder: Path, wishes: ExportOptions, steps: StepTimer) -> None:
        checkpoint, texts = ready.checkpoint, ready.texts
        layout.copy(checkpoint.folder, folder, checkpoint.tokenizer_json, wishes.truncate_dim)
        self.checkpoint, self.folder, self.wishes, self.steps = checkpoint, folder, wishes, steps
        self.tokenizer = Tokenizer(folder / TOKENIZER, checkpoint.pipeline)
        self.texts = encodable(texts._replace(real=_sample(texts.real, wishes)), self.tokenizer, checkpoint, steps)
        # Calibration texts and test texts must differ: int8 may not be judged on the texts that it was calibrated on.
        calibrated = min(_CALIBRATED, (len(self.texts.real) + 1) // 2)
        self.calibrated, rest = self.texts.real[:calibrated], self.texts.real[calibrated:]
        self.judged, self.searched = rest[:_JUDGED] or self.calibrated, rest[_JUDGED:] or self.texts.real
        self.queries, self.evaluation = self.texts.queries, self.texts.evaluation
        self.recipes, self.isa = ready.recipes, ready.isa
        named = bool(wishes.variants) and not wishes.skip_failed
        self.failures = VariantFailures(folder, list(self.recipes), named, steps)
        self.cosines: dict[str, npt.NDArray[np.float64]] = {}  # by variant: cosine of each probe to the checkpoint
        self.provenance = provenance.of(checkpoint.folder, wishes)

    def run(self) -> Bundle:
        judged = self._probes()
        made = self._make()
        provisional = self._write([self._variant(one) for one in made])
        with ExitStack() as stack:
            finished, encoders = self._gate(made, provisional, judged, stack)
            self._reference(provisional.fingerprint, encoders)
            speeds = self._speeds(self.failures.kept(finished), encoders)
            ranked = variant_choice.rank(self.failures.kept(finished), self.wishes.objective, speeds)
            finished, names = self._certify(finished, [v.name for v in ranked], encoders)
            found = self._retrieval(names, encoders)
            with failing(found.chosen, ExportStage.SHAPES):
                finished = shape_certificates.of(finished, found.chosen, encoders, self.steps)
        self.codes = found.codes
        kept = self.failures.kept(finished)
        self._remove(made, kept)
        return self._write(kept, tune.make_choice(kept, self.wishes.objective, found.chosen, speeds), found.quality)

    def _gate(
        self,
        made: Sequence[variants_recipes.BuiltVariant],
        provisional: Bundle,
        judged: ProbeSet,
        stack: ExitStack,
    ) -> tuple[list[Variant], dict[str, Encoder]]:
        """Return the variants that passed and their encoders, which stay open until `stack` closes."""
        finished: list[Variant] = []
        encoders: dict[str, Encoder] = {}
        for one in made:
            with self.failures.optional(one.name), ExitStack() as own:
                with failing(one.name, ExportStage.LOAD):
                    encoder = own.enter_context(Encoder.open(provisional, one.name, task=None))
                finished.append(self._gated(one, encoder, judged))
                encoders[one.name] = encoder
                stack.enter_context(own.pop_all())
        return finished, encoders

    def _certify(
        self, finished: list[Variant], ranked: Sequence[str], encoders: Mapping[str, Encoder]
    ) -> tuple[list[Variant], list[str]]:
        """Certify the best variants in turn until one passes. Return all variants, and `ranked` from that one on."""
        for place, name in enumerate(ranked):
            with self.failures.optional(name), failing(name, ExportStage.SHAPES):
                return shape_certificates.of(finished, name, encoders, self.steps), list(ranked[place:])
        raise AssertionError("the plain variant is always ranked, and its failure stops the export")

    def _speeds(self, finished: Sequence[Variant], encoders: dict[str, Encoder]) -> VariantSpeeds:
        here = hardware.machine()
        # float16 on a CPU runs through casts, so its speed means nothing: measure only what this machine can serve.
        fit = {v.name: encoders[v.name] for v in finished if here.meets(self.recipes[v.name].needs)}
        with self.steps.step("speed"):
            timed = tune.measure(fit, self.texts.real[:_TIMED])
        for name, error in timed.failed.items():
            with self.failures.optional(name), failing(name, ExportStage.SPEED):
                encoders.pop(name)
                raise error
        return timed.speeds

    def _probes(self) -> ProbeSet:
        with self.steps.step("vectors of the checkpoint itself"):
            judged = ProbeSet.make(self.checkpoint, self.tokenizer, self.judged, self._short(calibrated=False))
            judged.golden(self.tokenizer).save(self.folder / GOLDEN)
        if self.wishes.task is Task.RERANK:
            self.codes = NO_CODES
            return judged
        with self.steps.step("ranges of int8 codes"):
            held_out = judged.vectors[judged.hostile :]
            self.codes = vector_codes.fit(embedding(self.checkpoint), self.calibrated, held_out)
        return judged

    def _short(self, calibrated: bool) -> list[Text]:
        """Return texts of a few tokens, to calibrate or judge int8. Empty for a re-ranker: its pairs are long."""
        if self.wishes.task is Task.RERANK:
            return []
        texts = probe_texts.short(without_pairs(self.calibrated if calibrated else self.judged), calibrated)
        special = sum(map(len, self.tokenizer.special_tokens))
        lengths = self.tokenizer(texts).lengths
        return [text for text, n in zip(texts, lengths, strict=True) if 0 < n - special <= probe_texts.SHORT_TOKENS]

    def _make(self) -> list[variants_recipes.BuiltVariant]:
        feeds = variants_recipes.calibration(
            self.tokenizer, self.checkpoint, [*self.calibrated, *self._short(calibrated=True)]
        )
        floors = self.wishes.floors[Precision.INT8]
        bench = variants_recipes.BuildContext(
            self.folder, self.checkpoint, feeds, self.isa, floors, self.wishes.converter
        )
        made = []
        for name, recipe in self.recipes.items():
            failures = self.failures
            step = self.steps.step(f"make {name}")
            with failures.optional(name), failures.cleaning(), failing(name, ExportStage.MAKE), step:
                made.append(variants_recipes.make(name, recipe, bench))
        return made

    def _gated(self, made: variants_recipes.BuiltVariant, encoder: Encoder, judged: ProbeSet) -> Variant:
        with self.steps.step(f"gate {made.name}"):
            agreement = parity.require(encoder, judged, self.wishes.floors)
            self.cosines[made.name] = agreement.cosines
        return self._variant(made, encoder.engine.precision, agreement.parity, agreement.invariance)

    def _variant(
        self,
        made: variants_recipes.BuiltVariant,
        precision: Precision | None = None,
        measured: ParityReport | None = None,
        certificate: InvarianceReport | None = None,
    ) -> Variant:
        """Describe a variant. Before its gate has run, it has figures that no floor accepts."""
        return Variant(
            name=made.name,
            runtime=made.recipe.runtime,
            path=made.recipe.path,
            weights=made.recipe.weights,
            quantisation=made.recipe.quantisation,
            # The gate runs on the CPU for every target. targets.cpu has already refused int8 files that this machine
            # would compute differently. float16 runs through casts here, with more digits than on a GPU.
            needs=made.recipe.needs if measured else (),
            precision=precision or made.recipe.weights,
            size=sum(path.stat().st_size for path in self._files(made)),
            fused=made.fused,
            parity=measured or _UNMEASURED[0],
            invariance=certificate or _UNMEASURED[1],
        )

    def _files(self, made: variants_recipes.BuiltVariant) -> list[Path]:
        """Return the files of a variant: its graph, and weights with the same stem."""
        graph = self.folder / made.recipe.path
        return [p for p in graph.parent.iterdir() if p.name.split(".", 1)[0] == graph.name.split(".", 1)[0]]

    def _remove(self, made: Sequence[variants_recipes.BuiltVariant], kept: Sequence[Variant]) -> None:
        """Delete the files of variants that failed, and folders that are then empty."""
        names = {variant.name for variant in kept}
        for one in made:
            if one.name not in names:
                for path in self._files(one):
                    path.unlink()
        for folder in {(self.folder / recipe.path).parent for recipe in self.recipes.values()}:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def _retrieval(self, ranked: list[str], encoders: dict[str, Encoder]) -> VariantDecision:
        """Choose from `ranked`, best first. With --eval, recall decides as well."""
        if self.wishes.task is Task.RERANK:
            return VariantDecision(ranked[0], NO_CODES, None)
        if self.evaluation is not None:
            budget = self.wishes.max_recall_drop
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
                    encoders[name], self.codes, without_pairs(self.searched), without_pairs(self.judged)
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
                seed=self.wishes.seed,
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
        undecided = VariantChoice(
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
            floors=self.wishes.floors,
            variants=tuple(described),
            choice=decided or undecided,
            codes=self.codes,
            quality=measured,
            provenance=self.provenance,
            files={},
            left_out=tuple(self.failures.left_out) if decided and self.failures.left_out else msgspec.UNSET,
        )
        if decided:
            # The report shows vectors and their codes. A re-ranker has neither; its figures are in the manifest.
            if self.wishes.task is Task.EMBED:
                names = [variant.name for variant in described]
                write_report(self.folder, manifest, {name: self.cosines[name] for name in names})
            sbom.write(self.folder, manifest)
        return Bundle.write(self.folder, manifest)


def _sample(texts: Sequence[Text], wishes: ExportOptions) -> list[Text]:
    if wishes.task is Task.RERANK:
        return probe_pairs.sample(texts, _SEARCHED, wishes.seed)
    return [*probe_texts.sample(without_pairs(texts), _SEARCHED, wishes.seed)]
