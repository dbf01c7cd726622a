"""Manifest of a bundle (bundle.json): its model, variants and origin, and the names of its files."""

from __future__ import annotations

import hashlib

import msgspec

from embedship.bundle.measurements import (
    InvarianceReport,
    MachineInfo,
    ParityFloors,
    ParityReport,
    RetrievalReport,
    ShapeCertificate,
    VectorCodes,
)
from embedship.bundle.record import (
    ExportStage,
    ManifestRecord,
    Objective,
    Precision,
    Quantisation,
    Runtime,
    Similarity,
    Task,
)
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


class ModelSpec(ManifestRecord, frozen=True, omit_defaults=True):
    """Everything except the weights that decides the vector of a text, or the score of a pair.

    The JSON omits fields with defaults, so that the fingerprints of bundles made before these existed stay valid.
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
    pools_prompts: bool = True  # False: the tokens of a prompt are read but not pooled (include_prompt=False)

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


class LeftOut(ManifestRecord, frozen=True):
    """A variant that the export left out of the bundle because it failed."""

    name: str
    stage: ExportStage
    reason: str


class VariantChoice(ManifestRecord, frozen=True, omit_defaults=True):
    """The variant that `serve` uses, and the measurements that chose it.

    The fields with defaults are newer than the first bundles. They are omitted if they have their default.
    """

    objective: Objective
    variant: str
    machine: MachineInfo
    tokens_per_second: dict[str, float]  # variant -> throughput on real texts
    latency_seconds: dict[str, float]  # variant -> median time of short texts, each alone
    # variant -> tokens per second of this process's CPU time
    tokens_per_cpu_second: dict[str, float] = msgspec.field(default_factory=dict)
    # variant -> spread of the throughput rounds: slowest minus fastest as a share of the median
    spread: dict[str, float] = msgspec.field(default_factory=dict)
    alike: tuple[str, ...] = ()  # variants that the rounds could not tell apart from the chosen one
    busy: bool = False  # other programs slowed this one down, so CPU time decided


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


def fingerprint(source: ModelSource, pipeline: ModelSpec, tokenizer_sha256: str) -> str:
    """Return the sha256 of everything that changes a vector: weights, tokenizer, and the whole pipeline record."""
    facts = {"weights": source.weights_sha256, "tokenizer": tokenizer_sha256, "pipeline": pipeline}
    return hashlib.sha256(msgspec.json.encode(facts, order="deterministic")).hexdigest()
