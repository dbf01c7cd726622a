"""A checkpoint becomes a bundle: make the variants, hold each against the checkpoint, choose, seal."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from embedship import hardware, jsonl
from embedship.bundle import (
    FORMAT,
    GOLDEN,
    REFERENCE,
    TOKENIZER,
    Bundle,
    Choice,
    Code,
    Codes,
    Floors,
    Invariance,
    Manifest,
    Measured,
    Objective,
    Parity,
    Precision,
    Provenance,
    Quality,
    Similarity,
    Variant,
    fingerprint,
)  # fmt: skip
from embedship.codes import Int8Scale
from embedship.encoder import Encoder
from embedship.export import layout, parity, probes, targets, tune, variants
from embedship.export.checkpoint import Checkpoint
from embedship.export.converter import Converter
from embedship.export.opening import Opening, opened
from embedship.export.page.render import write as write_report
from embedship.export.quality import Dataset, Encode, evaluate
from embedship.export.quiet import stay_offline
from embedship.export.steps import Steps
from embedship.export.targets import Target
from embedship.export.workshop import workshop
from embedship.monitor.reference import Reference
from embedship.sealed import sha256_of
from embedship.tokens import Tokenizer

# 100 texts calibrate int8 as well as 300 do (MiniLM: mean cosine 0.9977), once the hostile ones are among them.
_CALIBRATED, _JUDGED, _TIMED = 100, 200, 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What an export may be told; the defaults are those of the command."""

    texts: Path | None = None
    queries: Path | None = None
    evaluation: Path | None = None
    evaluation_title: bool = False
    variants: tuple[str, ...] = ()
    floors: dict[Precision, Floors] = field(default_factory=lambda: dict(parity.FLOORS))
    name: str | None = None
    seed: int = 0
    force: bool = False
    base: str | None = None
    pooling: str | None = None
    normalize: bool = False
    allow_pickle: tuple[str, ...] = ()
    trust_remote_code: str | None = None
    target: Target = Target.AUTO
    converter: Converter = Converter.EMBEDSHIP


class _Texts(NamedTuple):
    """What the user's files hold, read before anything slow begins."""

    real: list[str]
    queries: list[str]
    evaluation: Dataset | None


def build(checkpoint: Path | str, out: Path, wishes: Wishes | None = None, steps: Steps | None = None) -> Bundle:
    """Export a checkpoint, a folder or a hub id, to a new bundle at `out` and return it.

    Raises UsageError or UnsafeError for what cannot be exported and GateError when a variant's vectors are not the
    checkpoint's; whatever goes wrong, nothing is left at `out` or beside it.
    """
    stay_offline()
    wishes, steps = wishes or Wishes(), steps or Steps()
    isa = targets.cpu(wishes.target, hardware.machine())
    variants.require_known(wishes.variants, wishes.target, isa)
    wishes.converter.require()
    # What is no checkpoint is refused at once, not after the texts have been read.
    with workshop(out, wishes.force) as folder, opened(checkpoint, _opening(wishes), steps) as source:
        with steps.step("texts"):
            texts = _read(wishes)
        with steps.step("checkpoint"):
            loaded = Checkpoint.open(source, wishes.name)
        _Export(loaded, folder, wishes, steps, texts, isa).run()
    return Bundle.open(out)


def _opening(wishes: Wishes) -> Opening:
    return Opening(
        base=wishes.base,
        pooling=wishes.pooling,
        normalize=wishes.normalize,
        allow_pickle=wishes.allow_pickle,
        trust_remote_code=wishes.trust_remote_code,
    )


def _read(wishes: Wishes) -> _Texts:
    evaluation = wishes.evaluation and Dataset.read(wishes.evaluation, wishes.evaluation_title)
    queries = [row.text for row in jsonl.read(wishes.queries, jsonl.Text)] if wishes.queries else []
    return _Texts(probes.real(wishes.texts), queries, evaluation or None)


class _Export:
    """One export under way, in its temporary folder."""

    def __init__(
        self, checkpoint: Checkpoint, folder: Path, wishes: Wishes, steps: Steps, texts: _Texts, isa: Target
    ) -> None:
        layout.copy(checkpoint.folder, folder, checkpoint.tokenizer_json)
        self.checkpoint, self.folder, self.wishes, self.steps = checkpoint, folder, wishes, steps
        self.texts = texts._replace(real=probes.sample(texts.real, _CALIBRATED + _JUDGED, wishes.seed))
        self.queries, self.evaluation = texts.queries, texts.evaluation
        self.isa = isa
        self.tokenizer = Tokenizer(folder / TOKENIZER, checkpoint.pipeline)
        self.cosines: dict[str, npt.NDArray[np.float64]] = {}  # variant -> of every probe to the checkpoint

    def run(self) -> None:
        judged = self._probes()
        made = self._make()
        provisional = self._write([self._variant(one) for one in made])
        with ExitStack() as stack:
            encoders = {one.name: stack.enter_context(Encoder.open(provisional, one.name)) for one in made}
            finished = [self._gated(one, encoders[one.name], judged) for one in made]
            with self.steps.step("speed"):
                choice = tune.choose(_fit(encoders, made), self.texts.real[:_TIMED])
            quality = self._quality(choice.variant, encoders[choice.variant])
            self._reference(provisional.fingerprint, encoders[variants.PLAIN])
        self._write(finished, choice, quality)

    def _probes(self) -> parity.Probes:
        with self.steps.step("vectors of the checkpoint itself"):
            judged = parity.Probes.make(self.checkpoint, self.tokenizer, self.texts.real[-_JUDGED:])
            judged.golden(self.tokenizer).save(self.folder / GOLDEN)
        self.codes = Codes(int8=Int8Scale.fit(judged.vectors), binary_threshold=0.0, rescore=10)
        return judged

    def _make(self) -> list[variants.Made]:
        feeds = variants.calibration(self.tokenizer, self.checkpoint, self.texts.real[:_CALIBRATED])
        floors, config = self.wishes.floors[Precision.INT8], self.checkpoint.model[0].model.config
        recipes = variants.wanted(self.wishes.variants, self.wishes.target, self.isa, config)
        bench = variants.Workbench(self.folder, self.checkpoint, feeds, self.isa, floors, self.wishes.converter)
        made = []
        for name, recipe in recipes.items():
            with self.steps.step(f"make {name}"):
                made.append(variants.make(name, recipe, bench))
        return made

    def _gated(self, made: variants.Made, encoder: Encoder, judged: parity.Probes) -> Variant:
        with self.steps.step(f"gate {made.name}"):
            agreement = parity.require(encoder, made.name, judged, self.wishes.floors)
            self.cosines[made.name] = agreement.cosines
        return self._variant(made, encoder, agreement.parity)

    def _variant(self, made: variants.Made, encoder: Encoder | None = None, measured: Parity | None = None) -> Variant:
        path = self.folder / made.recipe.path
        own = [p for p in path.parent.iterdir() if p.name.split(".", 1)[0] == path.name.split(".", 1)[0]]
        return Variant(
            name=made.name,
            runtime=made.recipe.runtime,
            path=made.recipe.path,
            weights=made.recipe.weights,
            quantisation=made.recipe.quantisation,
            # Here it is held against the checkpoint on the CPU whatever it is for: targets.cpu has refused an int8 that
            # this machine would compute otherwise, and float16 runs through casts, with more digits than on a GPU.
            needs=made.recipe.needs if measured else (),
            precision=encoder.engine.precision if encoder else made.recipe.weights,
            size=sum(p.stat().st_size for p in own),
            fused=made.fused,
            parity=measured or Parity(texts=0, longest=0, minimum=0.0, mean=0.0, overlap=0.0, worst_text=""),
            invariance=Invariance(texts=0, shuffled=0.0, over_padded=0.0, other_side=0.0),
        )

    def _quality(self, name: str, encoder: Encoder) -> Quality | None:
        data = self.evaluation
        if data is None:
            return None
        dot = self.checkpoint.pipeline.similarity is Similarity.DOT
        with self.steps.step("retrieval quality"):
            doors = {"checkpoint": self._checkpoint_doors(), name: _encoder_doors(encoder)}
            dimension = self.checkpoint.pipeline.dimension
            measured = (
                Measured(
                    variant=who,
                    dimension=dimension,
                    code=Code.FLOAT32,
                    rescored=False,
                    bytes_per_vector=4 * dimension,
                    metrics=evaluate(data, *door, dot=dot),
                )
                for who, door in doors.items()
            )
            return Quality(
                dataset=data.name,
                queries=len(data.queries),
                documents=len(data.documents),
                measured=tuple(measured),
            )

    def _checkpoint_doors(self) -> tuple[Encode, Encode]:
        pipeline = self.checkpoint.pipeline
        prompts = (pipeline.prompts.get(name or "", "") for name in (pipeline.document_prompt, pipeline.query_prompt))
        documents, queries = (partial(self.checkpoint.encode, prompt=prompt) for prompt in prompts)
        return documents, queries

    def _reference(self, model: str, encoder: Encoder) -> None:
        """Of float32 vectors: the reference must not carry the noise of whichever variant is fastest here."""
        if not self.queries:
            return
        with self.steps.step("drift reference"):
            name = encoder.bundle.manifest.pipeline.query_prompt
            vectors = encoder.encode(self.queries, prompt_name=name)
            fitted = Reference.fit(vectors, model, prompt=encoder.tokenizer.prompt(name), seed=self.wishes.seed)
            fitted.save(self.folder / REFERENCE)

    def _write(
        self, described: Sequence[Variant], choice: Choice | None = None, quality: Quality | None = None
    ) -> Bundle:
        tokenizer = sha256_of(self.folder / TOKENIZER)
        source, pipeline = self.checkpoint.source, self.checkpoint.pipeline
        undecided = Choice(
            objective=Objective.THROUGHPUT,
            variant=described[0].name,
            machine=hardware.machine(),
            tokens_per_second={},
            latency_seconds={},
        )
        manifest = Manifest(
            format=FORMAT,
            fingerprint=fingerprint(source, pipeline, tokenizer),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            source=source,
            pipeline=pipeline,
            tokenizer_sha256=tokenizer,
            floors=self.wishes.floors,
            variants=tuple(described),
            choice=choice or undecided,
            codes=self.codes,
            quality=quality,
            provenance=Provenance(files={}, options={}, seed=self.wishes.seed),
            files={},
        )
        if choice:
            write_report(self.folder, manifest, self.cosines)
        return Bundle.write(self.folder, manifest)


def _fit(encoders: dict[str, Encoder], made: Sequence[variants.Made]) -> dict[str, Encoder]:
    """Those that this machine may serve from: the speed of float16 on a CPU says nothing."""
    here = hardware.machine()
    return {one.name: encoders[one.name] for one in made if here.meets(one.recipe.needs)}


def _encoder_doors(encoder: Encoder) -> tuple[Encode, Encode]:
    pipeline = encoder.bundle.manifest.pipeline
    names = (pipeline.document_prompt, pipeline.query_prompt)
    documents, queries = (partial(encoder.encode, prompt_name=name) for name in names)
    return documents, queries
