"""index.json: what an index holds, which model it belongs to, and the hash of every file."""

from __future__ import annotations

from pathlib import Path

import msgspec

from embedship import sealed
from embedship.bundle import Bundle, Record
from embedship.codes import Int8Scale
from embedship.errors import EmbedshipError, MismatchError, UnsafeError, UsageError
from embedship.sealed import File
from embedship.serve.documents import DOCUMENTS
from embedship.serve.index import Kind

MANIFEST = "index.json"
FORMAT = 2

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


class IndexManifest(Record, frozen=True):
    format: int
    fingerprint: str
    variant: str
    kind: Kind
    size: int
    dimension: int
    with_title: bool
    document_prompt: str | None  # name of the prompt that documents were given, None for none
    query_prompt: str | None  # name of the one that queries must be given
    rescoring: Rescoring | None
    recall: Recall | None
    truncated: int  # documents that are longer than the model reads
    versions: dict[str, str]
    created: str
    files: dict[str, File]
    digest: str = ""

    @property
    def hot_bytes(self) -> int:
        """Bytes a vector takes in memory: what every search reads. Rescoring codes and exact vectors stay on disk."""
        return 4 * self.dimension if self.kind is Kind.FLAT else self.dimension // 8


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


def demand(folder: Path, manifest: IndexManifest, bundle: Bundle) -> None:
    """Raise MismatchError unless the index was built with this bundle's model, and packed with its frozen codes."""
    cure = "Build the index again with this bundle, or take the bundle it was built with."
    if manifest.fingerprint != bundle.fingerprint:
        raise MismatchError(
            f"the index {folder} was built with model {manifest.fingerprint[:12]}, this bundle is "
            f"{bundle.fingerprint[:12]}: their vectors cannot be compared. {cure}"
        )
    codes, packed = bundle.manifest.codes, manifest.rescoring
    if packed and (packed.scale, packed.threshold) != (codes.scale(manifest.dimension), codes.binary_threshold):
        raise MismatchError(
            f"the index {folder} is packed with other int8 ranges or another binary threshold than this bundle "
            f"freezes: the model is the same, but it was exported again with other texts. {cure}"
        )
