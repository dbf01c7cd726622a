"""Records of a bulk run: its options, its plan, its shards, and the manifest of the finished folder."""

from __future__ import annotations

from embedship.bundle import ManifestRecord, VectorCode
from embedship.files.sealed import SealedFile
from embedship.serve.bulk.formats import OutputFormat

FORMAT = 1


class EncodeOptions(ManifestRecord, frozen=True):
    """Options of the user. If `dimensions` or `prompt_name` is None, the model's default is used."""

    code: VectorCode = VectorCode.FLOAT32
    layout: OutputFormat = OutputFormat.NPY
    dimensions: int | None = None
    prompt_name: str | None = None
    shard_texts: int = 8192


class EncodePlan(ManifestRecord, frozen=True):
    """Everything that determines the bytes of the output."""

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
    """One finished shard. `cut` is the number of texts truncated to the model's maximum length."""

    name: str
    texts: int
    tokens: int
    cut: int
    file: SealedFile


class EncodeManifest(ManifestRecord, frozen=True):
    """Contents of an encoded folder. `row` is the length and dtype of one vector; codes use the bundle's parameters."""

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
