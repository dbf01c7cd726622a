"""bundle.json: the records of a bundle's files, variants, measurements and origin."""

from __future__ import annotations

import hashlib
from enum import StrEnum

import msgspec

from embedship.codes import Int8Scale
from embedship.errors import UsageError
from embedship.files.sealed import SealedFile

MANIFEST = "bundle.json"


SIGNATURE = "model.sig"  # of all the others, made last: the one file that the manifest cannot list


GOLDEN = "golden.safetensors"


REFERENCE = "reference.safetensors"


TOKENIZER = "tokenizer.json"


REPORT_HTML, REPORT_JSON = "report.html", "report.json"


FORMAT = 2


# Of a bundle whose task is not the embedding of texts: an embedship that knows no other says that it cannot read it.
TASK_FORMAT = 3


class Task(StrEnum):
    """What the model answers: a vector for a text, or one score for a pair of query and passage."""

    EMBED = "embed"
    RERANK = "rerank"

    @property
    def output(self) -> str:
        """The name of the graph's output that is the answer, (n, dim) float32; a re-ranker's has one column."""
        return "sentence_embedding" if self is Task.EMBED else "logits"

    @property
    def manifest_format(self) -> int:
        """The format of its bundles."""
        return FORMAT if self is Task.EMBED else TASK_FORMAT


class Runtime(StrEnum):
    ONNXRUNTIME = "onnxruntime"
    OPENVINO = "openvino"


class Precision(StrEnum):
    """The arithmetic of the matrix products; int8 also where only the weights have 8 bits (see Quantisation)."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"


class Quantisation(StrEnum):
    """How the matrix products became int8. A dynamic scale is taken from the batch, so neighbours change a vector."""

    NONE = "none"
    STATIC = "static"
    WEIGHT_ONLY = "weight-only"
    DYNAMIC = "dynamic"


class Objective(StrEnum):
    """What the chosen variant is best at."""

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
    """What the model was trained for; the same thing where vectors have unit length."""

    COSINE = "cosine"
    DOT = "dot"


class ManifestRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of everything in the manifest: unknown keys are errors."""


class ModelSpec(ManifestRecord, frozen=True, omit_defaults=True):
    """All that decides, besides the weights, which vector a text gets, or which score a pair of them.

    The task is left out where it is EMBED: fingerprints are older than tasks.
    """

    architecture: str
    pooling: str
    dimension: int
    dimensions: tuple[int, ...]  # what a Matryoshka cut may ask for, largest first
    max_tokens: int
    lowercase: bool  # lower the text before tokenising, as old sentence-transformers folders ask
    normalised: bool  # rows have unit length
    similarity: Similarity
    prompts: dict[str, str]
    default_prompt: str | None
    inputs: tuple[str, ...]  # input names of the graph
    pad_id: int
    task: Task = Task.EMBED

    @property
    def query_prompt(self) -> str | None:
        """The name that encode_query of sentence-transformers takes, else the model's default."""
        return "query" if "query" in self.prompts else self.default_prompt

    @property
    def document_prompt(self) -> str | None:
        """The name that encode_document of sentence-transformers takes, else the model's default."""
        known = (name for name in ("document", "passage", "corpus") if name in self.prompts)
        return next(known, self.default_prompt)

    def prompt(self, name: str | None) -> str:
        """The text of a named prompt; None means the model's own default.

        Raises UsageError for a name the model does not have.
        """
        name = name if name is not None else self.default_prompt
        if name is None:
            return ""
        if name not in self.prompts:
            known = ", ".join(sorted(self.prompts)) or "none"
            raise UsageError(f"this model has no prompt named {name!r}; it has: {known}")
        return self.prompts[name]


class AdapterMerge(ManifestRecord, frozen=True):
    """A PEFT adapter merged into its base: lowest cosine of merged to unmerged vectors, over `texts` texts."""

    adapter_sha256: str
    base: dict[str, str]  # weight files of the base -> sha256
    texts: int
    minimum: float


class ModelSource(ManifestRecord, frozen=True):
    """Where the model came from."""

    name: str
    weights_sha256: str
    versions: dict[str, str]
    revision: str | None = None  # commit, if it came from a hub
    merge: AdapterMerge | None = None
    code_sha256: str | None = None  # of code that came with the checkpoint and ran for its own vectors
    left_out: tuple[str, ...] = ()  # files of the checkpoint that answer something else than a vector


class ParityReport(ManifestRecord, frozen=True, omit_defaults=True):
    """Cosine of the exported vectors to the checkpoint's, over `texts` texts of at most `longest` tokens.

    `overlap` is the mean share of a text's 10 nearest other probes that are its 10 nearest by the checkpoint too.
    `length` is the worst ratio of a vector's length to the checkpoint's, smaller over larger: no cosine sees that.

    Texts of a few tokens are apart, in the `short_` figures: there int8 errs more than on longer ones.

    Of a re-ranker: how alike the scores of `texts` pairs are (see likeness.py), the share of pairs of passages that
    stand in the checkpoint's order for their query, and the ratio of the spreads of the scores.
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
    """The batch-invariance certificate: worst cosine of a text alone to the same text in other company.

    shuffled      among texts drawn at random, of other lengths
    over_padded   padded far beyond the longest text of its batch
    other_side    padded on the left, where the engines here pad on the right; None where the checkpoint's own vectors
                  depend on the side, because its positions count from the left edge (BERT)
    """

    texts: int
    shuffled: float
    over_padded: float
    other_side: float | None
    worst_text: str

    @property
    def worst(self) -> float:
        """NaN if any of them is."""
        figures = [f for f in (self.shuffled, self.over_padded, self.other_side) if f is not None]
        return min(figures) if all(figure == figure for figure in figures) else float("nan")


class WrongShape(ManifestRecord, frozen=True):
    """A shape of batch in which vectors are not what they are in others: rows, width, and how alike at worst."""

    rows: int
    width: int
    likeness: float


class ShapeCertificate(ManifestRecord, frozen=True):
    """The shape certificate of a variant: of `checked` shapes of batches, all that the planner makes, which are wrong.

    It holds for one plan, runtime, instruction set, kind of device and number of streams (see shapes.py). `worst` is
    the lowest likeness between right shapes.
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
    """What the gate demands of a precision: the least that `ParityReport` may say."""

    minimum: float
    mean: float
    overlap: float
    length: float
    short: float | None = None  # of the `short_minimum`; None: as `minimum`


class Variant(ManifestRecord, frozen=True, omit_defaults=True):
    """One way to run the model: a file, a runtime, and what was measured of it when it was exported."""

    name: str
    runtime: Runtime
    path: str
    weights: Precision
    quantisation: Quantisation
    needs: tuple[str, ...]  # see Machine.meets: the CPUs (or "cuda") it was verified for; empty: it is right everywhere
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
    """A variant that the export tried and left out of the bundle, because it failed."""

    name: str
    stage: ExportStage
    reason: str


class MachineInfo(ManifestRecord, frozen=True):
    """What a measurement was taken on."""

    cpu: str
    isa: tuple[str, ...]
    cores: float

    def meets(self, needs: tuple[str, ...]) -> bool:
        """Whether it has any one of these instruction sets, or none is needed.

        They are alternatives: on any of them the file computes what was verified, on all others something else.
        """
        return not needs or not set(needs).isdisjoint(self.isa)

    def same_instructions(self, other: MachineInfo) -> bool:
        return set(self.isa) == set(other.isa)


class VariantChoice(ManifestRecord, frozen=True, omit_defaults=True):
    """The variant `serve` takes, and the measurements that chose it.

    The fields with defaults are younger than the first bundles, and left out where they say nothing.
    """

    objective: Objective
    variant: str
    machine: MachineInfo
    tokens_per_second: dict[str, float]  # variant -> throughput on real texts
    latency_seconds: dict[str, float]  # variant -> median time of short texts, each alone
    tokens_per_cpu_second: dict[str, float] = {}  # variant -> tokens in a second of CPU time of this process
    # variant -> how far the rounds of throughput lie apart, slowest minus fastest as a share of the median
    spread: dict[str, float] = {}
    alike: tuple[str, ...] = ()  # variants that the rounds could not tell apart from the chosen one
    busy: bool = False  # other programs held this one up, so CPU time decided


class VectorCodes(ManifestRecord, frozen=True):
    """How indexes and clients pack this model's vectors: fitted once, on the calibration texts, and then frozen.

    A code is of the vector after it was cut and renormalised, so each Matryoshka dimension has an int8 scale of its
    own: half of a unit vector grows by a third or more when it becomes one again.
    """

    int8: tuple[Int8Scale, ...]  # one for each of the pipeline's dimensions
    clipped: float  # share of components of held-out texts that lie outside the int8 ranges, at full dimension
    binary_threshold: float
    rescore: int  # candidates fetched for each hit wanted, when sign bits are searched first and int8 codes rank again
    rescored_recall: float | None  # of the 10 exact nearest, what that finds; None where no binary code is possible
    documents: int  # over so many: more documents may need more candidates

    def scale(self, dimension: int) -> Int8Scale:
        """Raises UsageError for a dimension that none was frozen for."""
        scales = {scale.dimension: scale for scale in self.int8}
        if dimension not in scales:
            known = ", ".join(map(str, scales))
            raise UsageError(f"this model has no int8 code for {dimension} dimensions; there is one for {known}")
        return scales[dimension]


class RetrievalResult(ManifestRecord, frozen=True):
    """Retrieval metrics of one way to make and store vectors."""

    variant: str  # or "checkpoint"
    dimension: int
    code: VectorCode
    rescored: bool
    bytes_per_vector: int  # of the code that is searched
    metrics: dict[str, float]


class RetrievalReport(ManifestRecord, frozen=True):
    """Retrieval on the user's own questions by exact search: the checkpoint and the variants at full dimension in
    float32, and the chosen one at every Matryoshka dimension in every code (`embedship evaluate` measures the others).
    """

    dataset: str
    queries: int
    documents: int
    max_recall_drop: float | None  # how far recall@10 may lie below the checkpoint's; what loses more is never chosen
    measured: tuple[RetrievalResult, ...]

    def of(self, variant: str) -> RetrievalResult:
        """The row of a variant, or of "checkpoint", at full dimension in float32: the plainest there is."""
        return next(row for row in self.measured if row.variant == variant and row.code is VectorCode.FLOAT32)

    def drop(self, variant: str) -> float:
        """How far recall@10 of a variant lies below the checkpoint's; NaN, which no budget lets through, if unknown."""
        known = {row.variant for row in self.measured}
        if variant not in known:
            return float("nan")
        return self.of("checkpoint").metrics["recall@10"] - self.of(variant).metrics["recall@10"]


class Provenance(ManifestRecord, frozen=True):
    """How this bundle came to be: enough to make it again."""

    files: dict[str, str]  # of the checkpoint: path -> sha256
    options: dict[str, str]  # of the command
    seed: int


class BundleManifest(ManifestRecord, frozen=True):
    format: int
    fingerprint: str
    created: str
    source: ModelSource
    pipeline: ModelSpec
    tokenizer_sha256: str
    floors: dict[Precision, ParityFloors]
    variants: tuple[Variant, ...]  # first the plain float32 graph, from which the others are made
    choice: VariantChoice
    codes: VectorCodes
    quality: RetrievalReport | None
    provenance: Provenance
    files: dict[str, SealedFile]
    digest: str = ""
    # Absent where nothing was left out: digests of older bundles were taken without it.
    left_out: tuple[LeftOut, ...] | msgspec.UnsetType = msgspec.UNSET

    @property
    def failed(self) -> tuple[LeftOut, ...]:
        """The variants that were tried and left out, none if nothing failed."""
        return () if self.left_out is msgspec.UNSET else self.left_out


NO_CODES = VectorCodes(
    int8=(), clipped=0.0, binary_threshold=0.0, rescore=1, rescored_recall=None, documents=0
)  # of a re-ranker: nobody stores scores


def fingerprint(source: ModelSource, pipeline: ModelSpec, tokenizer_sha256: str) -> str:
    """sha256 over everything that changes a vector: weights, tokenizer, and the whole pipeline record."""
    facts = {"weights": source.weights_sha256, "tokenizer": tokenizer_sha256, "pipeline": pipeline}
    return hashlib.sha256(msgspec.json.encode(facts, order="deterministic")).hexdigest()
