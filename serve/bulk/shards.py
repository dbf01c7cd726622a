"""Shards: encodes the texts of a shard to the bytes of its file, in this process or on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol

from embedship import hardware
from embedship.bundle import Bundle
from embedship.codes import truncate_dimensions
from embedship.distributions import installed_version
from embedship.encoder import Encoder, require_finite
from embedship.packing import quantize_vectors
from embedship.serve.bulk.formats import WRITERS
from embedship.serve.bulk.manifest import EncodePlan
from embedship.tokens import TokenBatch


class EncoderTraits(NamedTuple):
    """Properties of an encoder that, with the bundle, determine the bytes of its output."""

    variant: str
    precision: str
    isa: tuple[str, ...]
    versions: dict[str, str]

    @classmethod
    def from_encoder(cls, encoder: Encoder) -> EncoderTraits:
        packages = ("numpy", "tokenizers", encoder.variant.runtime)
        versions = {name: installed_version(name) for name in packages}
        return cls(encoder.variant.name, encoder.engine.precision, hardware.machine().isa, versions)


class ShardJob(NamedTuple):
    """The texts of one shard and their ids. `first` is the number of the first text in the whole input."""

    number: int
    first: int
    texts: list[str]
    ids: list[str | int]


class EncodedShard(NamedTuple):
    """The bytes of a shard file and its counts. `cut` texts were truncated to the model's maximum length."""

    number: int
    content: bytes
    texts: int
    tokens: int
    cut: int


class ProgressListener(Protocol):
    """Receives the progress of a run, from several threads."""

    def start(self, texts: int, done: int) -> None:
        """Called once at the start with the number of texts, and how many of them an earlier run has encoded."""

    def encoded(self, texts: int, tokens: int) -> None:
        """Called with the number of texts and tokens that were just encoded."""


class EncoderPool(Protocol):
    """One or more encoders that compute shards. They all have the same traits."""

    @property
    def bundle(self) -> Bundle: ...

    @property
    def traits(self) -> EncoderTraits: ...

    def shards(
        self, plan: EncodePlan, jobs: Iterator[ShardJob], progress: ProgressListener
    ) -> Generator[EncodedShard, None, None]:
        """Yield one shard per job, in any order. A job is taken from `jobs` when an encoder has capacity for it.

        Raises EngineError if a device fails, and every error that `jobs` raises.
        """


class LocalEncoderPool:
    """The single encoder of this process. The next shard is read and tokenised while one is computed."""

    def __init__(self, encoder: Encoder) -> None:
        self.bundle = encoder.bundle
        self.traits = EncoderTraits.from_encoder(encoder)
        self._encoder = encoder

    def shards(
        self, plan: EncodePlan, jobs: Iterator[ShardJob], progress: ProgressListener
    ) -> Generator[EncodedShard, None, None]:
        def tokenize_next() -> tuple[ShardJob, TokenBatch] | None:
            job = next(jobs, None)
            return None if job is None else (job, self._encoder.tokenizer(job.texts, plan.prompt))

        with ThreadPoolExecutor(1, thread_name_prefix="tokeniser") as executor:
            pending = executor.submit(tokenize_next)
            while (tokenized := pending.result()) is not None:
                pending = executor.submit(tokenize_next)
                job, tokens = tokenized
                yield encode_shard(self._encoder, plan, job, tokens, progress.encoded)


def encode_shard(
    encoder: Encoder, plan: EncodePlan, job: ShardJob, tokens: TokenBatch, progress: Callable[[int, int], object]
) -> EncodedShard:
    """Encode one shard. `progress` is called with the texts and tokens that were just finished.

    Raises EngineError if the device fails or a vector contains NaN or infinity.
    """
    lengths = tokens.lengths
    vectors = encoder.encode_tokens(tokens, lambda done: progress(len(done), sum(lengths[row] for row in done)))
    require_finite(vectors, job.first)
    manifest = encoder.bundle.manifest
    array = quantize_vectors(truncate_dimensions(vectors, plan.dimension), plan.code, manifest.pipeline, manifest.codes)
    return EncodedShard(
        number=job.number,
        content=WRITERS[plan.layout](array, job.ids),
        texts=len(job.texts),
        tokens=sum(lengths),
        cut=sum(1 for cut_tokens in tokens.cut if cut_tokens),
    )
