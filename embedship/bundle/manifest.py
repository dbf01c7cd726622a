"""Manifest of a bundle (bundle.json): the records of its files, variants, measurements and origin."""

from __future__ import annotations

import hashlib
from enum import StrEnum

import msgspec

from embedship.codes import Int8Scale
from embedship.errors import UsageError
from embedship.files.sealed import SealedFile

MANIFEST = "bundle.json"
# The signature covers all other files and is made last, so it is the one file that the manifest cannot list.
SIGNATURE = "model.sig"
# Written by `embedship pull --variant`: the bundle has the graph of one variant only.
SUBSET = "variant.json"
GOLDEN = "golden.safetensors"
REFERENCE = "reference.safetensors"
TOKENIZER = "tokenizer.json"
REPORT_HTML, REPORT_JSON = "report.html", "report.json"

FORMAT = 2
# Format of bundles for other tasks than text embedding. Versions of embedship that know only embedding reject it.
TASK_FORMAT = 3


class Task(StrEnum):
    """What the model returns: a vector per text, or one score per pair of query and passage."""

    EMBED = "embed"
    RERANK = "rerank"

    @property
    def output(self) -> str:
        """The name of the graph's output, (n, dim) float32. A re-ranker's output has one column."""
        return "sentence_embedding" if self is Task.EMBED else "logits"

    @property
    def manifest_format(self) -> int:
        """The format number of bundles for this task."""
        return FORMAT if self is Task.EMBED else TASK_FORMAT


class Runtime(StrEnum):
    """The library that runs a variant."""

    ONNXRUNTIME = "onnxruntime"
    OPENVINO = "openvino"


class Precision(StrEnum):
    """The arithmetic of the matrix products. It is also INT8 if only the weights have 8 bits (see Quantisation)."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"


class Quantisation(StrEnum):
    """How the matrix products became int8. A dynamic scale depends on the batch, so a vector depends on other texts."""

    NONE = "none"
    STATIC = "static"
    WEIGHT_ONLY = "weight-only"
    DYNAMIC = "dynamic"


class Objective(StrEnum):
    """The measurement that decides which variant is chosen."""

    THROUGHPUT = "throughput"
    LATENCY = "latency"
    SIZE = "size"


class VectorCode(StrEnum):
    """How a vector is stored."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"
    UBINARY = "ubinary"


class Similarity(StrEnum):
    """The similarity the model was trained for. Both are the same for vectors of unit length."""

    COSINE = "cosine"
    DOT = "dot"


class ManifestRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all records in the manifest: unknown keys are errors."""


class ModelSpec(ManifestRecord, frozen=True, omit_defaults=True):
    """Everything except the weights that decides the vector of a text, or the score of a pair.

    The JSON omits `task` if it is EMBED, so that the fingerprints of bundles made before `task` existed stay valid.
    """

    architecture: str
    pooling: str
    dimension: int
    dimensions: tuple[int, ...]  # the dimensions that Matryoshka truncation supports, largest first
    max_tokens: int
    lowercase: bool  # lower-case the text before tokenising, as old sentence-transformers folders require
    normalised: bool  # vectors have unit length
    similarity: Similarity
    prompts: dict[str, str]
    default_prompt: str | None
    inputs: tuple[str, ...]  # input names of the graph
    pad_id: int
    task: Task = Task.EMBED

    @property
    def query_prompt(self) -> str | None:
        """The prompt that encode_query of sentence-transformers uses: "query" if it exists, else the default."""
        return "query" if "query" in self.prompts else self.default_prompt

    @property
    def document_prompt(self) -> str | None:
        """The prompt that encode_document of sentence-transformers uses, else the model's default."""
        known = (name for name in ("document", "passage", "corpus") if name in self.prompts)
        return next(known, self.default_prompt)

    def prompt(self, name: str | None) -> str:
        """Return the text of a named prompt. None means the model's own default.

        Raises UsageError if the model has no prompt of this name.
        """
        name = name if name is not None else self.default_prompt
        if name is None:
            return ""
        if name not in self.prompts:
            known = ", ".join(sorted(self.prompts)) or "none"
            raise UsageError(f"this model has no prompt named {name!r}; it has: {known}")
        return self.prompts[name]


class AdapterMerge(ManifestRecord, frozen=True):
    """A PEFT adapter merged into its base. `minimum`: lowest cosine of merged to unmerged vectors of `texts` texts."""

    adapter_sha256: str
    base: dict[str, str]  # weight files of the base -> sha256
    texts: int
    minimum: float


class ModelSource(ManifestRecord, frozen=True):
    """The origin of the model."""

    name: str
    weights_sha256: str
    versions: dict[str, str]
    revision: str | None = None  # commit, if it came from a hub
    merge: AdapterMerge | None = None
    code_sha256: str | None = None  # of the checkpoint's own code, which ran to compute its vectors
    left_out: tuple[str, ...] = ()  # files of the checkpoint whose output is not a vector


class ParityReport(ManifestRecord, frozen=True, omit_defaults=True):
    """Cosines of the exported vectors to the checkpoint's, over `texts` texts of at most `longest` tokens.

    `overlap` compares the 10 nearest other probes of each text: the mean share that both models have in common.
    `length` is the worst ratio of a vector's length to the checkpoint's, smaller over larger. A cosine ignores length.

    Texts of a few tokens are reported separately, in the `short_` fields: int8 has larger errors there.

    For a re-ranker, the cosines are the likeness of the scores of `texts` pairs (see likeness.py), `overlap` is the
    share of pairs of passages that are in the checkpoint's order for their query, and `length` is the ratio of the
    spreads of the scores.
    """

    texts: int
    longest: int
    minimum: float
    mean: float
    overlap: float
    length: float
    worst_text: str
    short_texts: int = 0
    short_minimum: float | None = None  # None where no short texts were compared
    short_mean: float | None = None
    short_worst_text: str = ""


class InvarianceReport(ManifestRecord, frozen=True):
    """The batch-invariance certificate: the worst cosine between a text encoded alone and in another batch.

    shuffled      in a batch of random texts of other lengths
    over_padded   padded far beyond the longest text of its batch
    other_side    padded on the left, although these engines pad on the right. None if the checkpoint's own vectors
                  depend on the side, because its positions count from the left edge (BERT)
    """

    texts: int
    shuffled: float
    over_padded: float
    other_side: float | None
    worst_text: str

    @property
    def worst(self) -> float:
        """The lowest of the three, or NaN if any of them is NaN."""
        figures = [f for f in (self.shuffled, self.over_padded, self.other_side) if f is not None]
        return min(figures) if all(figure == figure for figure in figures) else float("nan")


class WrongShape(ManifestRecord, frozen=True):
    """A batch shape (rows, width) with wrong vectors, and the lowest likeness to the vectors of other shapes."""

    rows: int
    width: int
    likeness: float


class ShapeCertificate(ManifestRecord, frozen=True):
    """The shape certificate of a variant: the batch shapes with wrong vectors, among all `checked` possible shapes.

    It is valid for one plan, runtime, instruction set, kind of device and number of streams (see embedship.shapes).
    `worst` is the lowest likeness between right shapes.
    """

    runtime: str  # name and version
    isa: tuple[str, ...]
    device: str
    streams: int
    plan: str
    checked: int
    wrong: tuple[WrongShape, ...]
    worst: float
    seconds: float


class ParityFloors(ManifestRecord, frozen=True, omit_defaults=True):
    """What the gate demands of a precision: the lowest accepted values of `ParityReport`."""

    minimum: float
    mean: float
    overlap: float
    length: float
    short: float | None = None  # floor of `short_minimum`; None: the same as `minimum`


class Variant(ManifestRecord, frozen=True, omit_defaults=True):
    """One way to run the model: a file, a runtime, and the measurements of the export."""

    name: str
    runtime: Runtime
    path: str
    weights: Precision
    quantisation: Quantisation
    needs: tuple[str, ...]  # see MachineInfo.meets: the CPUs (or "cuda") it was verified for; empty: right on all
    precision: Precision  # as it ran on the exporting machine
    size: int
    fused: dict[str, int]
    parity: ParityReport
    invariance: InvarianceReport
    shapes: ShapeCertificate | None = None  # None: the bundle is older than this certificate


class ExportStage(StrEnum):
    """The step of an export at which a variant failed."""

    MAKE = "make"
    LOAD = "load"
    PARITY = "parity"
    INVARIANCE = "batch invariance"
    SHAPES = "shapes"
    GOLDEN = "golden texts"
    SPEED = "speed"
    RETRIEVAL = "retrieval"
    REFERENCE = "drift reference"


class LeftOut(ManifestRecord, frozen=True):
    """A variant that the export left out of the bundle because it failed."""

    name: str
    stage: ExportStage
    reason: str


class MachineInfo(ManifestRecord, frozen=True):
    """The machine of a measurement."""

    cpu: str
    isa: tuple[str, ...]
    cores: float

    def meets(self, needs: tuple[str, ...]) -> bool:
        """Return whether the machine has any of these instruction sets, or none is needed.

        They are alternatives: with any of them, the file gives the verified vectors. With none of them, it does not.
        """
        return not needs or not set(needs).isdisjoint(self.isa)

    def same_instructions(self, other: MachineInfo) -> bool:
        """Return whether both machines have the same instruction sets."""
        return set(self.isa) == set(other.isa)


class VariantChoice(ManifestRecord, frozen=True, omit_defaults=True):
    """The variant that `serve` uses, and the measurements that chose it.

    The fields with defaults are newer than the first bundles. They are omitted if they have their default.
    """

    objective: Objective
    variant: str
    machine: MachineInfo
    tokens_per_second: dict[str, float]  # variant -> throughput on real texts
    latency_seconds: dict[str, float]  # variant -> median time of short texts, each alone
    tokens_per_cpu_second: dict[str, float] = {}  # variant -> tokens per second of this process's CPU time
    # variant -> spread of the throughput rounds: slowest minus fastest as a share of the median
    spread: dict[str, float] = {}
    alike: tuple[str, ...] = ()  # variants that the rounds could not tell apart from the chosen one
    busy: bool = False  # other programs slowed this one down, so CPU time decided


class VectorCodes(ManifestRecord, frozen=True):
    """How indexes and clients encode this model's vectors compactly: fitted once on the calibration texts, then frozen.

    A code stores the vector after truncation and normalisation. Normalising half of a unit vector again makes its
    components larger by a third or more, so each Matryoshka dimension has its own int8 scale.
    """

    int8: tuple[Int8Scale, ...]  # one per dimension of the pipeline
    clipped: float  # share of components of held-out texts outside the int8 ranges, at full dimension
    binary_threshold: float
    rescore: int  # candidates per wanted hit, when sign bits are searched first and int8 codes rank them again
    # Share of the 10 exact nearest neighbours that this two-step search finds; None if no binary code is possible.
    rescored_recall: float | None
    documents: int  # measured over this number of documents: more documents may need more candidates

    def scale(self, dimension: int) -> Int8Scale:
        """Return the int8 scale of a dimension. Raises UsageError if the bundle has none for it."""
        scales = {scale.dimension: scale for scale in self.int8}
        if dimension not in scales:
            known = ", ".join(map(str, scales))
            raise UsageError(f"this model has no int8 code for {dimension} dimensions; there is one for {known}")
        return scales[dimension]


class RetrievalResult(ManifestRecord, frozen=True):
    """Retrieval metrics of one variant, dimension and code."""

    variant: str  # or "checkpoint"
    dimension: int
    code: VectorCode
    rescored: bool
    bytes_per_vector: int  # of the code that is searched
    metrics: dict[str, float]


class RetrievalReport(ManifestRecord, frozen=True):
    """Retrieval on the user's own queries by exact search.

    It has the checkpoint and each variant at full dimension in float32, and the chosen variant at every Matryoshka
    dimension in every code. `embedship evaluate` measures the other combinations.
    """

    dataset: str
    queries: int
    documents: int
    max_recall_drop: float | None  # largest accepted loss of recall@10; a variant that loses more is never chosen
    measured: tuple[RetrievalResult, ...]

    def result_of(self, variant: str) -> RetrievalResult:
        """Return the result of a variant, or of "checkpoint", at full dimension in float32."""
        return next(row for row in self.measured if row.variant == variant and row.code is VectorCode.FLOAT32)

    def drop(self, variant: str) -> float:
        """Return the checkpoint's recall@10 minus the variant's, or NaN if unknown, which fails every limit."""
        known = {row.variant for row in self.measured}
        if variant not in known:
            return float("nan")
        return self.result_of("checkpoint").metrics["recall@10"] - self.result_of(variant).metrics["recall@10"]


class Provenance(ManifestRecord, frozen=True):
    """How the bundle was made. This is enough to make it again."""

    files: dict[str, str]  # files of the checkpoint: path -> sha256
    options: dict[str, str]  # options of the export command
    seed: int


class BundleManifest(ManifestRecord, frozen=True):
    """The whole of bundle.json. `digest` is the sha256 of the manifest with an empty digest."""

    format: int
    fingerprint: str
    created: str
    source: ModelSource
    pipeline: ModelSpec
    tokenizer_sha256: str
    floors: dict[Precision, ParityFloors]
    variants: tuple[Variant, ...]  # the first is the plain float32 graph, from which the others are made
    choice: VariantChoice
    codes: VectorCodes
    quality: RetrievalReport | None
    provenance: Provenance
    files: dict[str, SealedFile]
    digest: str = ""
    # Omitted if nothing was left out: the digests of older bundles were computed without this field.
    left_out: tuple[LeftOut, ...] | msgspec.UnsetType = msgspec.UNSET

    @property
    def failed(self) -> tuple[LeftOut, ...]:
        """The variants that failed and were left out; empty if none failed."""
        return () if self.left_out is msgspec.UNSET else self.left_out


# The codes of a re-ranker: scores are not stored.
NO_CODES = VectorCodes(int8=(), clipped=0.0, binary_threshold=0.0, rescore=1, rescored_recall=None, documents=0)


def fingerprint(source: ModelSource, pipeline: ModelSpec, tokenizer_sha256: str) -> str:
    """Return the sha256 of everything that changes a vector: weights, tokenizer, and the whole pipeline record."""
    facts = {"weights": source.weights_sha256, "tokenizer": tokenizer_sha256, "pipeline": pipeline}
    return hashlib.sha256(msgspec.json.encode(facts, order="deterministic")).hexdigest()
