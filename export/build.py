"""Export: build the variants of a checkpoint, run the gates, choose a variant and write the bundle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

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
from embedship.errors import UsageError
from embedship.export import probe_pairs, probe_texts
from embedship.export.checkpoint import layout
from embedship.export.checkpoint.cross_encoder import CrossEncoderCheckpoint
from embedship.export.checkpoint.dimensions import StatedDimensions
from embedship.export.checkpoint.embedder import EmbedderCheckpoint, embedding
from embedship.export.checkpoint.folder import SentenceTransformersFolder
from embedship.export.checkpoint.open import OpenOptions, open_checkpoint
from embedship.export.checkpoint.protocol import SourceModel
from embedship.export.checkpoint.static_embedding import StaticCheckpoint
from embedship.export.gates import parity, retrieval, shape_certificates, vector_codes
from embedship.export.gates.dataset import RetrievalDataset
from embedship.export.gates.probe_set import ProbeSet
from embedship.export.gates.retrieval import VariantDecision
from embedship.export.options import ExportOptions
from embedship.export.output_folder import output_folder
from embedship.export.report import provenance, sbom
from embedship.export.report.page import write as write_report
from embedship.export.silence import stay_offline
from embedship.export.steps import StepTimer
from embedship.export.variant_failures import VariantFailures, failing
from embedship.export.variants import recipes as variants_recipes
from embedship.export.variants import targets
from embedship.export.variants.converter import GraphConverter
from embedship.export.variants.targets import HardwareTarget
from embedship.files import sealed
from embedship.files.sealed import sha256_of
from embedship.monitor.drift.reference import DriftReference
from embedship.queries import QueryLog
from embedship.tokens import Text, Tokenizer
from embedship.variant_choice import VariantSpeeds

# 100 texts calibrate int8 as well as 300 (MiniLM: mean cosine 0.9978 and 0.9977) if adversarial texts are included.
# With 64 texts an export is 1 s shorter, but keeps 99.8% of recall@10 on MedQuAD instead of 100.1%.
_CALIBRATED, _JUDGED, _TIMED = 100, 200, 300
# Number of texts on which the rescoring multiplier is measured, unless --eval provides a corpus.
_SEARCHED = 1000


if TYPE_CHECKING:
    from embedship.bundle.signing import BundleSigner


_NAN = float("nan")
# NNCF quantises this variant until its cosines reach the floor.
_ACCURATE = "openvino-int8-accuracy"
_UNMEASURED = (
    ParityReport(texts=0, longest=0, minimum=_NAN, mean=_NAN, overlap=_NAN, length=_NAN, worst_text=""),
    InvarianceReport(texts=0, shuffled=_NAN, over_padded=_NAN, other_side=None, worst_text=""),
)


class _InputTexts(NamedTuple):
    """The texts of the user's files, read before anything slow begins."""

    real: list[Text]
    queries: QueryLog | None
    evaluation: RetrievalDataset | None


class ExportInputs(NamedTuple):
    """Everything that an export needs before it builds the first variant."""

    recipes: dict[str, variants_recipes.VariantRecipe]
    isa: HardwareTarget  # target of the int8 files
    texts: _InputTexts
    checkpoint: SourceModel
    signer: BundleSigner | None


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


@contextmanager
def prepare_export(checkpoint: Path | str, wishes: ExportOptions, steps: StepTimer) -> Iterator[ExportInputs]:
    """Open and read all inputs of an export. Everything that can be refused before the slow part is refused here."""
    stay_offline()
    isa = targets.cpu(wishes.target, hardware.machine())
    variants_recipes.require_known(wishes.variants, wishes.target, isa)
    wishes.converter.require()
    _refuse_inapplicable_options(wishes)
    if wishes.max_recall_drop is not None and wishes.evaluation is None:
        raise UsageError("--max-recall-drop needs --eval DIR: recall cannot be measured without questions")
    # Refuse invalid checkpoints before reading the texts.
    with open_checkpoint(checkpoint, _opening(wishes), steps) as source:
        signer = _signer(wishes.sign)
        with steps.step("texts"):
            texts = _read(wishes)
        with steps.step("checkpoint"):
            loaded = _loaded(source, wishes)
        recipes = variants_recipes.wanted(wishes.variants, wishes.target, isa, loaded.transformer.config)
        yield ExportInputs(recipes, isa, texts, loaded, signer)


def _loaded(source: SentenceTransformersFolder, wishes: ExportOptions) -> SourceModel:
    if wishes.task is Task.RERANK:
        return CrossEncoderCheckpoint.open(source, wishes.name)
    dimensions = StatedDimensions(wishes.dimensions, wishes.truncate_dim)
    opened = StaticCheckpoint if source.static else EmbedderCheckpoint
    return opened.open(source, wishes.name, wishes.converter.packages, dimensions)


def _refuse_inapplicable_options(wishes: ExportOptions) -> None:
    """Raise UsageError for options that do not apply to re-rankers, which compute no vectors."""
    if wishes.task is Task.EMBED:
        return
    options = {
        "--queries": wishes.queries,
        "--eval": wishes.evaluation,
        "--base": wishes.base,
        "--pooling": wishes.pooling,
        "--dimensions": wishes.dimensions,
        "--truncate-dim": wishes.truncate_dim,
        "--trust-remote-code": wishes.trust_remote_code,
        "--converter optimum": wishes.converter is not GraphConverter.EMBEDSHIP,
        f"--variants {_ACCURATE}": {_ACCURATE, variants_recipes.ALL} & set(wishes.variants),
    }
    for name, value in options.items():
        if value:
            raise UsageError(f"{name} applies to embedding models only: leave it out with --task {wishes.task}")


def _signer(key: Path | None) -> BundleSigner | None:
    """Read the signing key before anything slow begins. The signing library is imported only if a key is given."""
    if key is None:
        return None
    from embedship.bundle.signing import BundleSigner

    return BundleSigner.open(key)


def _opening(wishes: ExportOptions) -> OpenOptions:
    return OpenOptions(
        base=wishes.base,
        pooling=wishes.pooling,
        normalize=wishes.normalize,
        allow_pickle=wishes.allow_pickle,
        trust_remote_code=wishes.trust_remote_code,
        task=wishes.task,
    )


def _read(wishes: ExportOptions) -> _InputTexts:
    evaluation = wishes.evaluation and RetrievalDataset.read(wishes.evaluation, wishes.evaluation_title)
    log = queries.read(wishes.queries) if wishes.queries else None
    real: list[Text] = (
        probe_pairs.real(wishes.texts) if wishes.task is Task.RERANK else [*probe_texts.real(wishes.texts)]
    )
    return _InputTexts(real, log, evaluation or None)


class ExportRun:
    """One running export, in its temporary folder."""

    def __init__(self, ready: ExportInputs, folder: Path, wishes: ExportOptions, steps: StepTimer) -> None:
        checkpoint, texts = ready.checkpoint, ready.texts
        layout.copy(checkpoint.folder, folder, checkpoint.tokenizer_json, wishes.truncate_dim)
        self.checkpoint, self.folder, self.wishes, self.steps = checkpoint, folder, wishes, steps
        self.tokenizer = Tokenizer(folder / TOKENIZER, checkpoint.pipeline)
        self.texts = _encodable(texts._replace(real=_sample(texts.real, wishes)), self.tokenizer, checkpoint, steps)
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
        """Certify the best variants in turn until one passes. Return all variants, and the names still ranked."""
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
        texts = probe_texts.short(_alone(self.calibrated if calibrated else self.judged), calibrated)
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
                return retrieval.on_texts(encoders[name], self.codes, _alone(self.searched), _alone(self.judged))
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
    return [*probe_texts.sample(_alone(texts), _SEARCHED, wishes.seed)]


def _encodable(texts: _InputTexts, tokenizer: Tokenizer, checkpoint: SourceModel, steps: StepTimer) -> _InputTexts:
    """Drop texts without tokens: an empty text has no vector if the tokenizer adds no special tokens.

    Raises UsageError if no text is left.
    """
    pipeline = checkpoint.pipeline
    real = [text for text, length in zip(texts.real, tokenizer(texts.real).lengths, strict=True) if length]
    if not real:
        raise UsageError("--texts contains no text with tokens: give texts like those that you will embed")
    log = texts.queries
    if log is not None:
        lengths = np.array(tokenizer(log.texts, pipeline.prompt(pipeline.query_prompt)).lengths, dtype=np.int64)
        if not lengths.any():
            raise UsageError("--queries contains no query with tokens: give queries like those that users will ask")
        if not lengths.all():
            steps.note(f"--queries: {(lengths == 0).sum():,} of {len(log):,} queries have no tokens and are left out")
            log = log.only(np.flatnonzero(lengths))
    evaluation = texts.evaluation and texts.evaluation.encodable(tokenizer, pipeline, steps.note)
    return _InputTexts(real, log, evaluation)


def _alone(texts: Sequence[Text]) -> list[str]:
    """Return the texts that are not pairs. For an embedding model these are all texts."""
    return [text for text in texts if isinstance(text, str)]
