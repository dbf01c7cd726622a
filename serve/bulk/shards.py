"""Texts -> the bytes of a shard, and who computes them: the encoder of this process, or those of a cluster."""

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
    """All of an encoder that decides which bytes come out, besides the bundle."""

    variant: str
    precision: str
    isa: tuple[str, ...]
    versions: dict[str, str]

    @classmethod
    def of(cls, encoder: Encoder) -> EncoderTraits:
        packages = ("numpy", "tokenizers", encoder.variant.runtime)
        versions = {name: installed_version(name) for name in packages}
        return cls(encoder.variant.name, encoder.engine.precision, hardware.machine().isa, versions)


class ShardJob(NamedTuple):
    """The texts of one shard, with an id each; `first` is the number of the first among all."""

    number: int
    first: int
    texts: list[str]
    ids: list[str | int]


class EncodedShard(NamedTuple):
    """A shard as it will lie on the disk. `truncate_dimensions` texts were longer than the model reads."""

    number: int
    content: bytes
    texts: int
    tokens: int
    cut: int


class ProgressListener(Protocol):
    """Whoever shows how far the run is."""

    def found(self, texts: int, done: int) -> None:
        """So many texts there are, and so many of them were encoded by an earlier run."""

    def encoded(self, texts: int, tokens: int) -> None: ...


class EncoderPool(Protocol):
    """Whoever computes shards. All its encoders have these traits."""

    @property
    def bundle(self) -> Bundle: ...

    @property
    def traits(self) -> EncoderTraits: ...

    def shards(
        self, plan: EncodePlan, jobs: Iterator[ShardJob], watcher: ProgressListener
    ) -> Generator[EncodedShard, None, None]:
        """Yield a shard for each job, in any order, each once; a job is taken when there is room for it.

        Raises EngineError if a device fails, or whatever `jobs` raises.
        """


class LocalEncoderPool:
    """The one encoder of this process. A shard is read and tokenised while the one before it computes."""

    def __init__(self, encoder: Encoder) -> None:
        self.bundle = encoder.bundle
        self.traits = EncoderTraits.of(encoder)
        self._encoder = encoder

    def shards(
        self, plan: EncodePlan, jobs: Iterator[ShardJob], watcher: ProgressListener
    ) -> Generator[EncodedShard, None, None]:
        def prepared() -> tuple[ShardJob, TokenBatch] | None:
            job = next(jobs, None)
            return None if job is None else (job, self._encoder.tokenizer(job.texts, plan.prompt))

        with ThreadPoolExecutor(1, thread_name_prefix="tokeniser") as ahead:
            pending = ahead.submit(prepared)
            while (ready := pending.result()) is not None:
                pending = ahead.submit(prepared)
                yield encoded(self._encoder, plan, *ready, watcher.encoded)


def encoded(
    encoder: Encoder, plan: EncodePlan, job: ShardJob, tokens: TokenBatch, told: Callable[[int, int], object]
) -> EncodedShard:
    """`told` hears of texts and tokens as they are finished. Raises EngineError, for NaN, too."""
    lengths = tokens.lengths
    vectors = encoder.encode_tokens(tokens, lambda done: told(len(done), sum(lengths[row] for row in done)))
    require_finite(vectors, job.first)
    manifest = encoder.bundle.manifest
    array = quantize_vectors(truncate_dimensions(vectors, plan.dimension), plan.code, manifest.pipeline, manifest.codes)
    return EncodedShard(
        number=job.number,
        content=WRITERS[plan.layout](array, job.ids),
        texts=len(job.texts),
        tokens=sum(lengths),
        cut=sum(1 for lost in tokens.cut if lost),
    )
