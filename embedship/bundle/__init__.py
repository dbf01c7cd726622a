"""The bundle: a folder with one model, its measurements, and what is needed to verify it.

bundle.py        Opens, writes and verifies a bundle
manifest.py      The records of bundle.json: model, variants, origin
measurements.py  Its records of what was measured
record.py        The base class of these records, and enumerations
signing.py       Signatures with OpenSSF model signing
"""

from embedship.bundle.bundle import Bundle, BundleSubset, unexpected_files
from embedship.bundle.manifest import (
    GOLDEN,
    MANIFEST,
    REFERENCE,
    REPORT_HTML,
    REPORT_JSON,
    SIGNATURE,
    SUBSET,
    TOKENIZER,
    AdapterMerge,
    BundleManifest,
    LeftOut,
    ModelSource,
    ModelSpec,
    Provenance,
    Variant,
    VariantChoice,
    fingerprint,
)
from embedship.bundle.measurements import (
    NO_CODES,
    InvarianceReport,
    MachineInfo,
    ParityFloors,
    ParityReport,
    RetrievalReport,
    RetrievalResult,
    ShapeCertificate,
    VectorCodes,
    WrongShape,
)
from embedship.bundle.record import (
    FORMAT,
    TASK_FORMAT,
    ExportStage,
    ManifestRecord,
    Objective,
    Precision,
    Quantisation,
    Runtime,
    Similarity,
    Task,
    VectorCode,
)

__all__ = [
    "FORMAT",
    "GOLDEN",
    "MANIFEST",
    "NO_CODES",
    "REFERENCE",
    "REPORT_HTML",
    "REPORT_JSON",
    "SIGNATURE",
    "SUBSET",
    "TASK_FORMAT",
    "TOKENIZER",
    "AdapterMerge",
    "Bundle",
    "BundleManifest",
    "BundleSubset",
    "ExportStage",
    "InvarianceReport",
    "LeftOut",
    "MachineInfo",
    "ManifestRecord",
    "ModelSource",
    "ModelSpec",
    "Objective",
    "ParityFloors",
    "ParityReport",
    "Precision",
    "Provenance",
    "Quantisation",
    "RetrievalReport",
    "RetrievalResult",
    "Runtime",
    "ShapeCertificate",
    "Similarity",
    "Task",
    "Variant",
    "VariantChoice",
    "VectorCode",
    "VectorCodes",
    "WrongShape",
    "fingerprint",
    "unexpected_files",
]
