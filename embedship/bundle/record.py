"""ManifestRecord: base class of the records in bundle.json. Also the formats and the enumerations."""

from __future__ import annotations

from enum import StrEnum

import msgspec

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


class ManifestRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all records in the manifest: unknown keys are errors."""
