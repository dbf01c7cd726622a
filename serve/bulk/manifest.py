"""What a bulk run writes down about itself: its plan, its shards, its manifest."""

from __future__ import annotations

from embedship.bundle import ManifestRecord, VectorCode
from embedship.files.sealed import SealedFile
from embedship.serve.bulk.formats import OutputFormat

FORMAT = 1


class EncodeOptions(ManifestRecord, frozen=True):
    """What the user asks for; `dimensions` and `prompt_name` None mean the model's own."""

    code: VectorCode = VectorCode.FLOAT32
    layout: OutputFormat = OutputFormat.NPY
    dimensions: int | None = None
    prompt_name: str | None = None
    shard_texts: int = 8192


class EncodePlan(ManifestRecord, frozen=True):
    """All that decides which bytes come out."""

    format: int
    fingerprint: str
    variant: str
    precision: str
    isa: tuple[str, ...]
    versions: dict[str, str]
    code: VectorCode
    layout: OutputFormat
    dimension: int
    prompt: str
    shard_texts: int
    input: str
    input_sha256: str
    columns: tuple[str, ...]
    texts: int
    digest: str = ""


class ShardRecord(ManifestRecord, frozen=True):
    """`cut` texts were longer than the model reads."""

    name: str
    texts: int
    tokens: int
    cut: int
    file: SealedFile


class EncodeManifest(ManifestRecord, frozen=True):
    """What lies in the folder. Codes are the bundle's frozen ones; `row` is the shape and dtype of one vector."""

    format: int
    plan: EncodePlan
    shards: tuple[ShardRecord, ...]
    ids: SealedFile
    row: tuple[int, str]
    digest: str = ""

    @property
    def tokens(self) -> int:
        return sum(shard.tokens for shard in self.shards)

    @property
    def cut(self) -> int:
        return sum(shard.cut for shard in self.shards)
