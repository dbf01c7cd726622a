"""index.json, the manifest of an index: its content, the model it belongs to, and the hash of every file."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import msgspec

from embedship.bundle import SIGNATURE, Bundle, MachineInfo, ManifestRecord, ModelSpec, VectorCode, VectorCodes
from embedship.codes import Int8Scale
from embedship.errors import EmbedshipError, MismatchError, UnsafeError, UsageError
from embedship.files import sealed
from embedship.files.sealed import SealedFile
from embedship.serve.documents.chunking import Chunking
from embedship.serve.documents.store import DOCUMENTS
from embedship.serve.index import IndexKind
from embedship.serve.index.effort import SearchEffort
from embedship.serve.index.recipe import IndexSpec, RerankStore

MANIFEST = "index.json"
FORMAT = 3

VECTORS = "vectors.f16.npy"
STAGE = "stage.faiss"
CODES = "int8.npy"


def files(recipe: IndexSpec) -> frozenset[str]:
    """Return the names of the files of an index, without its manifest."""
    return frozenset({DOCUMENTS, VECTORS, STAGE} | ({CODES} if recipe.store is RerankStore.INT8 else set()))


class QuantisationParams(ManifestRecord, frozen=True):
    """Parameters of the bundle's codes that an index was packed with; None for those that it does not use."""

    scale: Int8Scale | None
    threshold: float | None

    @classmethod
    def from_recipe(cls, recipe: IndexSpec, codes: VectorCodes, dimension: int) -> QuantisationParams:
        return cls(
            scale=codes.scale(dimension) if recipe.store is RerankStore.INT8 else None,
            threshold=codes.binary_threshold if recipe.kind is IndexKind.BINARY else None,
        )


SAMPLED = "documents"


class IndexRecall(ManifestRecord, frozen=True):
    """Recall: the share of the exact k nearest neighbours that the index found."""

    k: int
    queries: int
    source: str  # SAMPLED: documents of the index, removed from their own results; else the name of a query file
    ratio: float
    low: float | None = None  # lower end of the 95% interval; None in an index built before it was recorded


class TruncatedTexts(ManifestRecord, frozen=True):
    """Numbers of texts and tokens that were truncated, because texts are too long for the model."""

    texts: int = 0  # truncated texts
    tokens: int = 0  # lost tokens
    of: int = 0  # tokens of all texts, including the lost ones
    worst: int = 0  # the most tokens that one text lost
    worst_id: str | None = None  # id of that text


class IndexPrompts(ManifestRecord, frozen=True):
    """Prompt texts, verbatim: `document` was put before each document, `query` must be put before each query."""

    document: str
    query: str


class MeanInterval(ManifestRecord, frozen=True):
    """A mean over queries and its 95% confidence interval, as computed by indexing/measure.py."""

    mean: float
    low: float
    high: float


class MeasuredIndex(ManifestRecord, frozen=True):
    """The measurements of one recipe with one effort."""

    recipe: IndexSpec
    effort: SearchEffort
    recall: MeanInterval  # recall@10
    queries_per_second: float  # in batches, on one thread
    p99_seconds: float  # one query at a time, on one thread
    hot_bytes: float  # per vector
    build_seconds: float


class IndexGoals(ManifestRecord, frozen=True):
    """The user's requirements; None for those that do not matter."""

    recall: float
    memory_bytes: int | None = None  # for the whole first stage
    latency_seconds: float | None = None  # p99 of the search alone, without embedding


class IndexChoice(ManifestRecord, frozen=True):
    """The measurements made by a build by goal, and the machine it ran on, because times differ on other machines."""

    goals: IndexGoals
    machine: MachineInfo
    queries: int
    source: str  # as in IndexRecall
    documents: int  # documents of the measured index: those sampled as queries are left out
    chosen: int  # position in `measured`
    measured: tuple[MeasuredIndex, ...]


def frontier(choice: IndexChoice) -> list[int]:
    """Return the positions of the Pareto front of recall, speed and memory in `measured`, and `chosen`."""
    scores = [(-c.recall.mean, -c.queries_per_second, c.hot_bytes) for c in choice.measured]

    def beaten(at: int) -> bool:
        return any(
            other != scores[at] and all(o <= w for o, w in zip(other, scores[at], strict=True)) for other in scores
        )

    return [at for at in range(len(scores)) if at == choice.chosen or not beaten(at)]


class ModelBinding(Protocol):
    """The model that made the vectors, and the prompts that were put before the texts."""

    @property
    def fingerprint(self) -> str: ...
    @property
    def document_prompt(self) -> str | None: ...
    @property
    def query_prompt(self) -> str | None: ...
    @property
    def prompts(self) -> IndexPrompts: ...


class IndexDescription(ModelBinding, Protocol):
    """The properties of an index, on disk or in a vector database, that code must know to search or change it."""

    @property
    def kind(self) -> IndexKind: ...
    @property
    def with_title(self) -> bool: ...
    @property
    def chunking(self) -> Chunking | None: ...
    @property
    def exact(self) -> VectorCode: ...
    @property
    def recall(self) -> IndexRecall | None: ...
    @property
    def digest(self) -> str: ...


class IndexManifest(ManifestRecord, frozen=True):
    """The content of index.json."""

    format: int
    fingerprint: str
    variant: str
    recipe: IndexSpec
    effort: SearchEffort  # the tuned effort, for requests that set none
    size: int  # rows: chunks if documents were chunked, else documents
    documents: int
    dimension: int
    with_title: bool
    chunking: Chunking | None
    document_prompt: str | None  # name of the prompt put before documents; None for none
    query_prompt: str | None  # name of the prompt to put before queries; None for none
    prompts: IndexPrompts
    exact: VectorCode  # code of VECTORS: the index was built from them, exact search and `--from` read them
    packing: QuantisationParams
    recall: IndexRecall | None
    truncated: TruncatedTexts
    versions: dict[str, str]
    created: str
    files: dict[str, SealedFile]
    choice: IndexChoice | None = None  # the measurements that led a build by goal to this recipe
    digest: str = ""

    @property
    def kind(self) -> IndexKind:
        return self.recipe.kind

    @property
    def hot_bytes(self) -> float:
        """Bytes per vector that every search reads from memory, with the fixed parts of the first stage included.

        The codes for re-ranking and the exact vectors stay on disk and are not included.
        """
        return round(self.files[STAGE].size / self.size + grouping(self.size, self.documents), 1)


def grouping(rows: int, documents: int) -> int:
    """Return the bytes per row in memory that map a row to its document: 4 if documents were chunked, else 0."""
    return 4 if documents < rows else 0


def read(folder: Path) -> IndexManifest:
    """Read and check the manifest. `verify` hashes the files.

    Raises UsageError if the folder has no index, UnsafeError if the manifest is inconsistent.
    """
    path = folder / MANIFEST
    manifest = sealed.read(path, IndexManifest, FORMAT, "index")
    if set(manifest.files) != files(manifest.recipe) or not _consistent(manifest):
        raise UnsafeError(
            f"{path} contradicts itself: its files or settings do not fit a {manifest.kind} index. "
            "Build the index again"
        )
    return manifest


def _consistent(manifest: IndexManifest) -> bool:
    recipe, packing = manifest.recipe, manifest.packing
    return (
        (packing.scale is None) is (recipe.store is not RerankStore.INT8)
        and (packing.threshold is None) is (recipe.kind is not IndexKind.BINARY)
        and (recipe.dimension <= manifest.dimension)
        and (manifest.effort.oversample is None) is (recipe.kind is IndexKind.FLAT)
    )


def write(folder: Path, manifest: IndexManifest) -> IndexManifest:
    """Hash the files in `folder`, then write the manifest last."""
    hashed = {name: SealedFile.from_path(folder / name) for name in sorted(files(manifest.recipe))}
    return sealed.write(folder / MANIFEST, msgspec.structs.replace(manifest, files=hashed))


def verify(folder: Path, manifest: IndexManifest) -> None:
    """Hash every file again. Raises UnsafeError that names all missing, changed and added files."""
    problems = sealed.problems(folder, manifest.files, sorted(manifest.files))
    problems += [f"{name} was added" for name in _added_files(folder, manifest)]
    if problems:
        cure = "build it again with `embedship index`, or copy it again"
        raise UnsafeError(f"{folder} is not the index that was built: {'; '.join(problems)}: {cure}")


def _added_files(folder: Path, manifest: IndexManifest) -> list[str]:
    """Return the files that do not belong to the index. A signature does, if it is a regular file."""
    signature = {SIGNATURE} if sealed.list_files(folder).get(SIGNATURE) else set()
    return sealed.unlisted_files(folder, {MANIFEST, *signature, *manifest.files})


def require_replaceable(out: Path) -> None:
    """Raise UsageError unless the folder `out` has an index and no other files."""
    try:
        added = _added_files(out, read(out))
    except EmbedshipError as error:
        raise UsageError(
            f"{out} exists and is not a complete index ({error}): remove it, or give another --out"
        ) from None
    if added:
        raise UsageError(
            f"{out} has files that do not belong to an index ({', '.join(added)}): remove it, or give another --out"
        )


def prompts(pipeline: ModelSpec) -> IndexPrompts:
    """Return the prompt texts that this model puts before documents and queries."""
    document, query = (
        pipeline.prompts.get(name or "", "") for name in (pipeline.document_prompt, pipeline.query_prompt)
    )
    return IndexPrompts(document=document, query=query)


_CURE = "Build the index again with this bundle, or use the bundle it was built with."


def require_match(folder: Path, manifest: IndexManifest, bundle: Bundle) -> None:
    """Raise MismatchError unless the index was built with this bundle's model and the parameters of its codes."""
    require_model(folder, manifest, bundle)
    if manifest.packing != QuantisationParams.from_recipe(manifest.recipe, bundle.manifest.codes, manifest.dimension):
        raise MismatchError(
            f"the index {folder} was packed with other int8 ranges or another binary threshold than those of this "
            f"bundle: the model is the same, but it was exported again with other texts. Pack the index again with "
            f"`embedship index BUNDLE --from {folder}`, or use the bundle it was built with."
        )


def require_model(index: object, manifest: ModelBinding, bundle: Bundle) -> None:
    """Raise MismatchError unless the vectors are from this bundle's model, with the prompts that the bundle uses."""
    if manifest.fingerprint != bundle.fingerprint:
        raise MismatchError(
            f"the index {index} was built with model {manifest.fingerprint[:12]}, but this bundle has model "
            f"{bundle.fingerprint[:12]}: their vectors cannot be compared. {_CURE} `embedship index migrate` "
            "embeds the same documents with another bundle."
        )
    pipeline = bundle.manifest.pipeline
    served_prompts = prompts(pipeline)
    for role, indexed, current in (
        (
            "document",
            (manifest.document_prompt, manifest.prompts.document),
            (pipeline.document_prompt, served_prompts.document),
        ),
        ("query", (manifest.query_prompt, manifest.prompts.query), (pipeline.query_prompt, served_prompts.query)),
    ):
        if indexed != current:
            raise MismatchError(
                f"the index {index} was built for the {role} prompt {indexed[0]!r} ({indexed[1]!r}), this bundle uses "
                f"{current[0]!r} ({current[1]!r}): every score would be wrong. {_CURE}"
            )
