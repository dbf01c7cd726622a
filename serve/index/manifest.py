"""index.json: what an index holds, which model it belongs to, and the hash of every file."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from embedship.bundle import File, Record, sha256_of
from embedship.codes import Int8Scale
from embedship.errors import MismatchError, UnsafeError, UsageError
from embedship.serve.documents import DOCUMENTS
from embedship.serve.index import Kind

MANIFEST = "index.json"
FORMAT = 1

VECTORS = "vectors.f16.npy"
FLAT = "flat.faiss"
BITS = "binary.faiss"
CODES = "int8.npy"
FILES = {
    Kind.FLAT: frozenset({DOCUMENTS, VECTORS, FLAT}),
    Kind.BINARY: frozenset({DOCUMENTS, VECTORS, BITS, CODES}),
}


# Defaults of Rescoring; the measurement is in binary.py.
OVERSAMPLE = 20
LEAST = 400


class Rescoring(Record, frozen=True):
    """The second stage of a binary index: max(oversample x k, least) candidates, ranked by int8 codes."""

    scale: Int8Scale
    oversample: int
    least: int

    def candidates(self, k: int) -> int:
        return max(self.oversample * k, self.least)


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
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{folder} is no index: {MANIFEST} cannot be read ({error.strerror})") from None
    manifest = _parsed(raw, path)
    if _sealed(manifest).digest != manifest.digest:
        raise UnsafeError(f"{path} has been changed since it was written: its digest does not match")
    if set(manifest.files) != FILES[manifest.kind] or (manifest.rescoring is None) != (manifest.kind is Kind.FLAT):
        raise UnsafeError(f"{path} contradicts itself: a {manifest.kind} index is made of other files")
    return manifest


def write(folder: Path, manifest: IndexManifest) -> IndexManifest:
    """Hash the files that lie in `folder`, then write the manifest last."""
    paths = [folder / name for name in sorted(FILES[manifest.kind])]
    files = {path.name: File(sha256=sha256_of(path), size=path.stat().st_size) for path in paths}
    sealed = _sealed(msgspec.structs.replace(manifest, files=files))
    text = msgspec.json.format(msgspec.json.encode(sealed, order="deterministic"), indent=1)
    (folder / MANIFEST).write_bytes(text + b"\n")
    return sealed


def verify(folder: Path, manifest: IndexManifest) -> None:
    """Re-hash every file. Raises UnsafeError naming all that are missing, changed or added."""
    problems = [problem for name, file in sorted(manifest.files.items()) if (problem := _problem(folder / name, file))]
    problems += [f"{name} was added" for name in strangers(folder, manifest)]
    if problems:
        cure = "build it again with `embedship index`, or copy it again"
        raise UnsafeError(f"{folder} is not the index that was built: {'; '.join(problems)}: {cure}")


def strangers(folder: Path, manifest: IndexManifest) -> list[str]:
    """What lies in the folder and does not belong to the index."""
    return sorted(path.name for path in folder.iterdir() if path.name not in {MANIFEST, *manifest.files})


def demand(folder: Path, manifest: IndexManifest, fingerprint: str) -> None:
    """Raise MismatchError unless the index was built with the model of this fingerprint."""
    if manifest.fingerprint != fingerprint:
        raise MismatchError(
            f"the index {folder} was built with model {manifest.fingerprint[:12]}, this bundle is {fingerprint[:12]}: "
            "their vectors cannot be compared. Build the index again with this bundle, or take the bundle it was "
            "built with."
        )


def _problem(path: Path, listed: File) -> str | None:
    if path.is_symlink() or not path.is_file():
        return f"{path.name} is missing"
    if path.stat().st_size != listed.size:
        return f"{path.name} has {path.stat().st_size} bytes, not {listed.size}"
    return None if sha256_of(path) == listed.sha256 else f"{path.name} has changed (sha256)"


def _parsed(raw: bytes, path: Path) -> IndexManifest:
    try:
        head: dict[str, Any] = msgspec.json.decode(raw, type=dict)
        if head.get("format") == FORMAT:
            return msgspec.json.decode(raw, type=IndexManifest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UnsafeError(f"{path} is damaged: {error}") from None
    raise UsageError(f"{path} has format {head.get('format')!r}; this embedship reads format {FORMAT}")


def _sealed(manifest: IndexManifest) -> IndexManifest:
    """The manifest with the digest of itself, so that a changed or torn index.json is noticed."""
    bare = msgspec.structs.replace(manifest, digest="")
    digest = hashlib.sha256(msgspec.json.encode(bare, order="deterministic")).hexdigest()
    return msgspec.structs.replace(bare, digest=digest)
