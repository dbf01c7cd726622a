"""index.json: what an index holds, which model it belongs to, and the hash of every file."""

from __future__ import annotations

from pathlib import Path

import msgspec

from embedship import sealed
from embedship.bundle import Bundle, Code, Pipeline, Record
from embedship.codes import Int8Scale
from embedship.errors import EmbedshipError, MismatchError, UnsafeError, UsageError
from embedship.sealed import File
from embedship.serve.documents import DOCUMENTS
from embedship.serve.index import Kind
from embedship.serve.index.chunks import Chunking

MANIFEST = "index.json"
FORMAT = 3

VECTORS = "vectors.f16.npy"
FLAT = "flat.faiss"
BITS = "binary.faiss"
CODES = "int8.npy"
FILES = {
    Kind.FLAT: frozenset({DOCUMENTS, VECTORS, FLAT}),
    Kind.BINARY: frozenset({DOCUMENTS, VECTORS, BITS, CODES}),
}


# Default of Rescoring; the measurement is in binary.py.
OVERSAMPLE = 40


class Rescoring(Record, frozen=True):
    """The second stage of a binary index: `oversample` candidates a hit, ranked by int8 codes."""

    scale: Int8Scale  # the bundle's, as is the threshold
    threshold: float
    oversample: int


SAMPLED = "documents"


class Recall(Record, frozen=True):
    """Share of the exact k best that the index found."""

    k: int
    queries: int
    source: str  # SAMPLED: documents of the index, each blind to itself; else the name of a file of questions
    ratio: float


class Truncated(Record, frozen=True):
    """What of the texts the model never saw, because they are longer than it reads."""

    texts: int = 0  # that lost something
    tokens: int = 0  # lost
    of: int = 0  # tokens of all texts, those lost included
    worst: int = 0  # tokens that one text lost at most
    worst_id: str | None = None  # and which one


class Prompts(Record, frozen=True):
    """What was put before each document and must be put before each query, word for word."""

    document: str
    query: str


class IndexManifest(Record, frozen=True):
    format: int
    fingerprint: str
    variant: str
    kind: Kind
    size: int  # rows: chunks where documents were cut, else documents
    documents: int
    dimension: int
    with_title: bool
    chunking: Chunking | None
    document_prompt: str | None  # name of the prompt that documents were given, None for none
    query_prompt: str | None  # name of the one that queries must be given
    prompts: Prompts
    exact: Code  # of VECTORS: what the index was made from, exact search compares with and `--from` builds from
    rescoring: Rescoring | None
    recall: Recall | None
    truncated: Truncated
    versions: dict[str, str]
    created: str
    files: dict[str, File]
    digest: str = ""

    @property
    def hot_bytes(self) -> int:
        """Bytes a vector takes in memory: what every search reads. Rescoring codes and exact vectors stay on disk."""
        grouping = 4 if self.documents < self.size else 0  # which document a row is of
        return grouping + (4 * self.dimension if self.kind is Kind.FLAT else self.dimension // 8)


def read(folder: Path) -> IndexManifest:
    """Read and check the manifest; files are hashed by `verify`.

    Raises UsageError when the folder holds no index, UnsafeError when the manifest contradicts itself.
    """
    path = folder / MANIFEST
    manifest = sealed.read(path, IndexManifest, FORMAT, "index")
    if set(manifest.files) != FILES[manifest.kind] or (manifest.rescoring is None) != (manifest.kind is Kind.FLAT):
        raise UnsafeError(f"{path} contradicts itself: a {manifest.kind} index is made of other files")
    return manifest


def write(folder: Path, manifest: IndexManifest) -> IndexManifest:
    """Hash the files that lie in `folder`, then write the manifest last."""
    files = {name: File.of(folder / name) for name in sorted(FILES[manifest.kind])}
    return sealed.write(folder / MANIFEST, msgspec.structs.replace(manifest, files=files))


def verify(folder: Path, manifest: IndexManifest) -> None:
    """Re-hash every file. Raises UnsafeError naming all that are missing, changed or added."""
    problems = sealed.problems(folder, manifest.files, sorted(manifest.files))
    problems += [f"{name} was added" for name in _strangers(folder, manifest)]
    if problems:
        cure = "build it again with `embedship index`, or copy it again"
        raise UnsafeError(f"{folder} is not the index that was built: {'; '.join(problems)}: {cure}")


def _strangers(folder: Path, manifest: IndexManifest) -> list[str]:
    return sealed.strangers(folder, {MANIFEST, *manifest.files})


def require_replaceable(out: Path) -> None:
    """Raise UsageError unless what lies at `out` is an index and nothing else."""
    try:
        added = _strangers(out, read(out))
    except EmbedshipError as error:
        raise UsageError(f"{out} exists and is not a whole index ({error}): remove it, or give another --out") from None
    if added:
        raise UsageError(f"{out} holds more than an index ({', '.join(added)}): remove it, or give another --out")


def prompts(pipeline: Pipeline) -> Prompts:
    """The texts of the prompts that this model gives documents and queries."""
    document, query = (
        pipeline.prompts.get(name or "", "") for name in (pipeline.document_prompt, pipeline.query_prompt)
    )
    return Prompts(document=document, query=query)


_CURE = "Build the index again with this bundle, or take the bundle it was built with."


def demand(folder: Path, manifest: IndexManifest, bundle: Bundle) -> None:
    """Raise MismatchError unless the index was built with this bundle's model, and packed with its frozen codes."""
    demand_model(folder, manifest, bundle)
    codes, packed = bundle.manifest.codes, manifest.rescoring
    if packed and (packed.scale, packed.threshold) != (codes.scale(manifest.dimension), codes.binary_threshold):
        raise MismatchError(
            f"the index {folder} is packed with other int8 ranges or another binary threshold than this bundle "
            f"freezes: the model is the same, but it was exported again with other texts. Pack it again with "
            f"`embedship index BUNDLE --from {folder}`, or take the bundle it was built with."
        )


def demand_model(folder: Path, manifest: IndexManifest, bundle: Bundle) -> None:
    """Raise MismatchError unless its vectors are those of this bundle's model, by the prompts that it gives."""
    if manifest.fingerprint != bundle.fingerprint:
        raise MismatchError(
            f"the index {folder} was built with model {manifest.fingerprint[:12]}, this bundle is "
            f"{bundle.fingerprint[:12]}: their vectors cannot be compared. {_CURE} `embedship index migrate` "
            "embeds the same documents with another bundle."
        )
    pipeline = bundle.manifest.pipeline
    now = prompts(pipeline)
    for what, then, own in (
        ("document", (manifest.document_prompt, manifest.prompts.document), (pipeline.document_prompt, now.document)),
        ("query", (manifest.query_prompt, manifest.prompts.query), (pipeline.query_prompt, now.query)),
    ):
        if then != own:
            raise MismatchError(
                f"the index {folder} was built for the {what} prompt {then[0]!r} ({then[1]!r}), this bundle gives "
                f"{own[0]!r} ({own[1]!r}): every score would be off. {_CURE}"
            )
