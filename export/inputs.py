"""ExportInputs: opens and reads everything that an export needs, and refuses invalid options before the slow part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from embedship import hardware, queries
from embedship.bundle import Task
from embedship.errors import UsageError
from embedship.export import probe_pairs, probe_texts
from embedship.export.checkpoint.cross_encoder import CrossEncoderCheckpoint
from embedship.export.checkpoint.dimensions import StatedDimensions
from embedship.export.checkpoint.embedder import EmbedderCheckpoint
from embedship.export.checkpoint.folder import SentenceTransformersFolder
from embedship.export.checkpoint.open import OpenOptions, open_checkpoint
from embedship.export.checkpoint.protocol import SourceModel
from embedship.export.checkpoint.static_embedding import StaticCheckpoint
from embedship.export.gates.dataset import RetrievalDataset
from embedship.export.options import ExportOptions
from embedship.export.silence import stay_offline
from embedship.export.steps import StepTimer
from embedship.export.variants import recipes as variants_recipes
from embedship.export.variants import targets
from embedship.export.variants.converter import GraphConverter
from embedship.export.variants.targets import HardwareTarget
from embedship.queries import QueryLog
from embedship.tokens import Text, Tokenizer

if TYPE_CHECKING:
    from embedship.bundle.signing import BundleSigner

# NNCF quantises this variant until its cosines reach the floor.
_ACCURATE = "openvino-int8-accuracy"


class InputTexts(NamedTuple):
    """The texts of the user's files, read before anything slow begins."""

    real: list[Text]
    queries: QueryLog | None
    evaluation: RetrievalDataset | None


class ExportInputs(NamedTuple):
    """Everything that an export needs before it builds the first variant."""

    recipes: dict[str, variants_recipes.VariantRecipe]
    isa: HardwareTarget  # target of the int8 files
    texts: InputTexts
    checkpoint: SourceModel
    signer: BundleSigner | None


@contextmanager
def prepare_export(checkpoint: Path | str, options: ExportOptions, steps: StepTimer) -> Iterator[ExportInputs]:
    """Open and read all inputs of an export. Everything that can be refused before the slow part is refused here."""
    stay_offline()
    isa = targets.cpu(options.target, hardware.machine())
    variants_recipes.require_known(options.variants, options.target, isa)
    options.converter.require()
    _refuse_inapplicable_options(options)
    if options.max_recall_drop is not None and options.evaluation is None:
        raise UsageError("--max-recall-drop needs --eval DIR: recall cannot be measured without questions")
    # Refuse invalid checkpoints before reading the texts.
    with open_checkpoint(checkpoint, _open_options(options), steps) as source:
        signer = _open_signer(options.sign)
        with steps.step("texts"):
            texts = _read_texts(options)
        with steps.step("checkpoint"):
            loaded = _load_checkpoint(source, options)
        recipes = variants_recipes.select_recipes(options.variants, options.target, isa, loaded.transformer.config)
        yield ExportInputs(recipes, isa, texts, loaded, signer)


def _load_checkpoint(source: SentenceTransformersFolder, options: ExportOptions) -> SourceModel:
    if options.task is Task.RERANK:
        return CrossEncoderCheckpoint.open(source, options.name)
    dimensions = StatedDimensions(options.dimensions, options.truncate_dim)
    opened = StaticCheckpoint if source.static else EmbedderCheckpoint
    return opened.open(source, options.name, options.converter.packages, dimensions)


def _refuse_inapplicable_options(options: ExportOptions) -> None:
    """Raise UsageError for options that do not apply to re-rankers, which compute no vectors."""
    if options.task is Task.EMBED:
        return
    inapplicable = {
        "--queries": options.queries,
        "--eval": options.evaluation,
        "--base": options.base,
        "--pooling": options.pooling,
        "--dimensions": options.dimensions,
        "--truncate-dim": options.truncate_dim,
        "--trust-remote-code": options.trust_remote_code,
        "--converter optimum": options.converter is not GraphConverter.EMBEDSHIP,
        f"--variants {_ACCURATE}": {_ACCURATE, variants_recipes.ALL} & set(options.variants),
    }
    for name, value in inapplicable.items():
        if value:
            raise UsageError(f"{name} applies to embedding models only: leave it out with --task {options.task}")


def _open_signer(key: Path | None) -> BundleSigner | None:
    """Read the signing key before anything slow begins. The signing library is imported only if a key is given."""
    if key is None:
        return None
    from embedship.bundle.signing import BundleSigner

    return BundleSigner.open(key)


def _open_options(options: ExportOptions) -> OpenOptions:
    return OpenOptions(
        base=options.base,
        pooling=options.pooling,
        normalize=options.normalize,
        allow_pickle=options.allow_pickle,
        trust_remote_code=options.trust_remote_code,
        task=options.task,
    )


def _read_texts(options: ExportOptions) -> InputTexts:
    evaluation = options.evaluation and RetrievalDataset.read(options.evaluation, options.evaluation_title)
    log = queries.read(options.queries) if options.queries else None
    real: list[Text] = (
        probe_pairs.real(options.texts) if options.task is Task.RERANK else [*probe_texts.real(options.texts)]
    )
    return InputTexts(real, log, evaluation or None)


def drop_empty_texts(texts: InputTexts, tokenizer: Tokenizer, checkpoint: SourceModel, steps: StepTimer) -> InputTexts:
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
            steps.print_line(
                f"--queries: {(lengths == 0).sum():,} of {len(log):,} queries have no tokens and are left out"
            )
            log = log.only(np.flatnonzero(lengths))
    evaluation = texts.evaluation and texts.evaluation.drop_empty_texts(tokenizer, pipeline, steps.print_line)
    return InputTexts(real, log, evaluation)


def without_pairs(texts: Sequence[Text]) -> list[str]:
    """Return the texts that are not pairs. For an embedding model these are all texts."""
    return [text for text in texts if isinstance(text, str)]
