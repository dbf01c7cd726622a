"""index.json: what an index holds, which model it belongs to, and the hash of every file."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import msgspec

from embedship.bundle import Bundle, MachineInfo, ManifestRecord, ModelSpec, VectorCode, VectorCodes
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
    """What an index consists of beside its manifest."""
    return frozenset({DOCUMENTS, VECTORS, STAGE} | ({CODES} if recipe.store is RerankStore.INT8 else set()))


class QuantisationParams(ManifestRecord, frozen=True):
    """The bundle's frozen codes that an index is packed with; None for what it does not use."""

    scale: Int8Scale | None
    threshold: float | None

    @classmethod
    def of(cls, recipe: IndexSpec, codes: VectorCodes, dimension: int) -> QuantisationParams:
        return cls(
            scale=codes.scale(dimension) if recipe.store is RerankStore.INT8 else None,
            threshold=codes.binary_threshold if recipe.kind is IndexKind.BINARY else None,
        )


SAMPLED = "documents"


class IndexRecall(ManifestRecord, frozen=True):
    """Share of the exact k best that the index found."""

    k: int
    queries: int
    source: str  # SAMPLED: documents of the index, each blind to itself; else the name of a file of questions
    ratio: float
    low: float | None = None  # the lower end of its 95% interval; None in an index of before it was kept


class TruncatedTexts(ManifestRecord, frozen=True):
    """What of the texts the model never saw, because they are longer than it reads."""

    texts: int = 0  # that lost something
    tokens: int = 0  # lost
    of: int = 0  # tokens of all texts, those lost included
    worst: int = 0  # tokens that one text lost at most
    worst_id: str | None = None  # and which one


class IndexPrompts(ManifestRecord, frozen=True):
    """What was put before each document and must be put before each query, word for word."""

    document: str
    query: str


class MeanInterval(ManifestRecord, frozen=True):
    """A mean over queries, and where it lies with 95% confidence: queries are drawn again, not their hits."""

    mean: float
    low: float
    high: float


class MeasuredIndex(ManifestRecord, frozen=True):
    """One recipe and effort as it was measured."""

    recipe: IndexSpec
    effort: SearchEffort
    recall: MeanInterval  # recall@10
    queries_per_second: float  # in batches, one thread
    p99_seconds: float  # one query at a time, one thread
    hot_bytes: float  # a vector
    build_seconds: float


class IndexGoals(ManifestRecord, frozen=True):
    """What the user needs; None for what does not matter."""

    recall: float
    memory_bytes: int | None = None  # of the whole first stage
    latency_seconds: float | None = None  # p99 of the search alone


class IndexChoice(ManifestRecord, frozen=True):
    """What a build by goal measured, and where: on another machine times are others."""

    goals: IndexGoals
    machine: MachineInfo
    queries: int
    source: str  # as in Recall
    documents: int  # of the measured index: those sampled as queries are left out of it
    chosen: int  # of `measured`
    measured: tuple[MeasuredIndex, ...]


def frontier(choice: IndexChoice) -> list[int]:
    """Those of `measured` that no other beats in recall, speed and memory at once; and the chosen one, in any case."""
    worth = [(-c.recall.mean, -c.queries_per_second, c.hot_bytes) for c in choice.measured]

    def beaten(at: int) -> bool:
        return any(other != worth[at] and all(o <= w for o, w in zip(other, worth[at], strict=True)) for other in worth)

    return [at for at in range(len(worth)) if at == choice.chosen or not beaten(at)]


class ModelBinding(Protocol):
    """The model that vectors are of, and what was put before the texts they are of."""

    @property
    def fingerprint(self) -> str: ...
    @property
    def document_prompt(self) -> str | None: ...
    @property
    def query_prompt(self) -> str | None: ...
    @property
    def prompts(self) -> IndexPrompts: ...


class IndexDescription(ModelBinding, Protocol):
    """What whoever searches or changes an index has to know of it, wherever it lies."""

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
    format: int
    fingerprint: str
    variant: str
    recipe: IndexSpec
    effort: SearchEffort  # as tuned, for requests that ask for none
    size: int  # rows: chunks where documents were cut, else documents
    documents: int
    dimension: int
    with_title: bool
    chunking: Chunking | None
    document_prompt: str | None  # name of the prompt that documents were given, None for none
    query_prompt: str | None  # name of the one that queries must be given
    prompts: IndexPrompts
    exact: VectorCode  # of VECTORS: what the index was made from, exact search compares with and `--from` builds from
    packing: QuantisationParams
    recall: IndexRecall | None
    truncated: TruncatedTexts
    versions: dict[str, str]
    created: str
    files: dict[str, SealedFile]
    choice: IndexChoice | None = None  # how a build by goal came to this recipe
    digest: str = ""

    @property
    def kind(self) -> IndexKind:
        return self.recipe.kind

    @property
    def hot_bytes(self) -> float:
        """Bytes a vector takes in memory: what every search reads, the first stage's fixed parts shared among all.

        Rescoring codes and exact vectors stay on disk.
        """
        return round(self.files[STAGE].size / self.size + grouping(self.size, self.documents), 1)


def grouping(rows: int, documents: int) -> int:
    """Bytes a row takes in memory to say which document it is of."""
    return 4 if documents < rows else 0


def read(folder: Path) -> IndexManifest:
    """Read and check the manifest; files are hashed by `verify`.

    Raises UsageError when the folder holds no index, UnsafeError when the manifest contradicts itself.
    """
    path = folder / MANIFEST
    manifest = sealed.read(path, IndexManifest, FORMAT, "index")
    if set(manifest.files) != files(manifest.recipe) or not _consistent(manifest):
        raise UnsafeError(f"{path} contradicts itself: a {manifest.kind} index is made of other files")
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
    """Hash the files that lie in `folder`, then write the manifest last."""
    hashed = {name: SealedFile.of(folder / name) for name in sorted(files(manifest.recipe))}
    return sealed.write(folder / MANIFEST, msgspec.structs.replace(manifest, files=hashed))


def verify(folder: Path, manifest: IndexManifest) -> None:
    """Re-hash every file. Raises UnsafeError naming all that are missing, changed or added."""
    problems = sealed.problems(folder, manifest.files, sorted(manifest.files))
    problems += [f"{name} was added" for name in _strangers(folder, manifest)]
    if problems:
        cure = "build it again with `embedship index`, or copy it again"
        raise UnsafeError(f"{folder} is not the index that was built: {'; '.join(problems)}: {cure}")


def _strangers(folder: Path, manifest: IndexManifest) -> list[str]:
    return sealed.unlisted_files(folder, {MANIFEST, *manifest.files})


def require_replaceable(out: Path) -> None:
    """Raise UsageError unless what lies at `out` is an index and nothing else."""
    try:
        added = _strangers(out, read(out))
    except EmbedshipError as error:
        raise UsageError(f"{out} exists and is not a whole index ({error}): remove it, or give another --out") from None
    if added:
        raise UsageError(f"{out} holds more than an index ({', '.join(added)}): remove it, or give another --out")


def prompts(pipeline: ModelSpec) -> IndexPrompts:
    """The texts of the prompts that this model gives documents and queries."""
    document, query = (
        pipeline.prompts.get(name or "", "") for name in (pipeline.document_prompt, pipeline.query_prompt)
    )
    return IndexPrompts(document=document, query=query)


_CURE = "Build the index again with this bundle, or take the bundle it was built with."


def require_match(folder: Path, manifest: IndexManifest, bundle: Bundle) -> None:
    """Raise MismatchError unless the index was built with this bundle's model, and packed with its frozen codes."""
    require_model(folder, manifest, bundle)
    if manifest.packing != QuantisationParams.of(manifest.recipe, bundle.manifest.codes, manifest.dimension):
        raise MismatchError(
            f"the index {folder} is packed with other int8 ranges or another binary threshold than this bundle "
            f"freezes: the model is the same, but it was exported again with other texts. Pack it again with "
            f"`embedship index BUNDLE --from {folder}`, or take the bundle it was built with."
        )


def require_model(index: object, manifest: ModelBinding, bundle: Bundle) -> None:
    """Raise MismatchError unless its vectors are those of this bundle's model, by the prompts that it gives."""
    if manifest.fingerprint != bundle.fingerprint:
        raise MismatchError(
            f"the index {index} was built with model {manifest.fingerprint[:12]}, this bundle is "
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
                f"the index {index} was built for the {what} prompt {then[0]!r} ({then[1]!r}), this bundle gives "
                f"{own[0]!r} ({own[1]!r}): every score would be off. {_CURE}"
            )
