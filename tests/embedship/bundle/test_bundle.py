from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import pytest

from embedship.bundle import (
    MANIFEST,
    Bundle,
    BundleManifest,
    InvarianceReport,
    MachineInfo,
    ModelSource,
    ModelSpec,
    Objective,
    ParityFloors,
    ParityReport,
    Precision,
    Provenance,
    Quantisation,
    Runtime,
    Similarity,
    Task,
    Variant,
    VariantChoice,
    VectorCodes,
    fingerprint,
)
from embedship.codes import Int8Scale
from embedship.errors import UnsafeError, UsageError
from embedship.files import sealed

PIPELINE = ModelSpec(
    architecture="BertModel",
    pooling="mean",
    dimension=8,
    dimensions=(8,),
    max_tokens=16,
    lowercase=False,
    normalised=True,
    similarity=Similarity.COSINE,
    prompts={"query": "q: ", "document": ""},
    default_prompt=None,
    inputs=("input_ids", "attention_mask"),
    pad_id=0,
)
TOKENIZER_SHA256 = hashlib.sha256(b"abc").hexdigest()  # every file of the folder below contains abc
SOURCE = ModelSource(name="tiny", weights_sha256="a" * 64, versions={})


def manifest() -> BundleManifest:
    parity = ParityReport(texts=1, longest=16, minimum=1.0, mean=1.0, overlap=1.0, length=1.0, worst_text="")
    variant = Variant(
        name="onnx",
        runtime=Runtime.ONNXRUNTIME,
        path="onnx/model.onnx",
        weights=Precision.FLOAT32,
        quantisation=Quantisation.NONE,
        needs=(),
        precision=Precision.FLOAT32,
        size=3,
        fused={},
        parity=parity,
        invariance=InvarianceReport(texts=1, shuffled=1.0, over_padded=1.0, other_side=None, worst_text=""),
    )
    machine = MachineInfo(cpu="a cpu", isa=("avx2",), cores=2.0)
    return BundleManifest(
        format=2,
        fingerprint=fingerprint(SOURCE, PIPELINE, TOKENIZER_SHA256),
        created="2026-11-22T00:00:00Z",
        source=SOURCE,
        pipeline=PIPELINE,
        tokenizer_sha256=TOKENIZER_SHA256,
        floors={Precision.FLOAT32: ParityFloors(minimum=0.9999, mean=0.9999, overlap=0.99, length=0.999)},
        variants=(variant,),
        choice=VariantChoice(
            objective=Objective.THROUGHPUT,
            variant="onnx",
            machine=machine,
            tokens_per_second={"onnx": 1.0},
            latency_seconds={"onnx": 0.001},
        ),
        codes=VectorCodes(
            int8=(Int8Scale((0.01,) * 8),),
            clipped=0.0,
            binary_threshold=0.0,
            rescore=8,
            rescored_recall=0.99,
            documents=100,
        ),
        quality=None,
        provenance=Provenance(files={}, options={}, seed=0),
        files={},
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "onnx").mkdir()
    for name in (
        "onnx/model.onnx",
        "onnx/model.onnx_data",
        "onnx/model_O3.onnx",
        "tokenizer.json",
        "golden.safetensors",
    ):
        (tmp_path / name).write_bytes(b"abc")
    Bundle.write(tmp_path, manifest())
    return tmp_path


def test_a_written_bundle_opens_equal_and_verifies(folder: Path) -> None:
    bundle = Bundle.open(folder)
    assert msgspec.structs.replace(bundle.manifest, files={}, digest="") == manifest()
    assert bundle.verify() == 5


def test_a_variant_needs_its_graph_its_weights_the_tokenizer_and_the_golden_texts(folder: Path) -> None:
    bundle = Bundle.open(folder)
    needed = bundle.files_of(bundle.plain)
    assert sorted(needed) == ["golden.safetensors", "onnx/model.onnx", "onnx/model.onnx_data", "tokenizer.json"]


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda f: (f / "onnx/model.onnx").write_bytes(b"abd"), r"onnx/model.onnx has changed"),
        (lambda f: (f / "onnx/model.onnx").write_bytes(b"abcd"), r"onnx/model.onnx has 4 bytes, not 3"),
        (lambda f: (f / "tokenizer.json").unlink(), r"tokenizer.json is missing"),
        (lambda f: (f / "extra.py").write_text(""), r"extra.py was added"),
        (lambda f: _link(f / "tokenizer.json", f / "golden.safetensors"), r"tokenizer.json is a symbolic link"),
    ],
)
def test_verify_names_the_file_that_is_wrong(folder: Path, damage, sentence: str) -> None:  # type: ignore[no-untyped-def]
    damage(folder)
    with pytest.raises(UnsafeError, match=sentence):
        Bundle.open(folder).verify()


@pytest.mark.parametrize(
    ("runtime", "path"),
    [
        (Runtime.ONNXRUNTIME, "onnx/model.xml"),
        (Runtime.ONNXRUNTIME, "onnx/model.ort"),
        (Runtime.OPENVINO, "onnx/model.pdmodel"),
        (Runtime.OPENVINO, "onnx/model.pb"),
        (Runtime.OPENVINO, "onnx/model.tflite"),
        (Runtime.OPENVINO, "onnx/model"),
    ],
)
def test_a_graph_for_another_parser_is_refused(folder: Path, runtime: Runtime, path: str) -> None:
    """OpenVINO chooses its parser by the name of the file; only those that an export writes are allowed."""
    (folder / path).write_bytes(b"abc")
    (variant,) = manifest().variants
    other = msgspec.structs.replace(variant, runtime=runtime, path=path)
    Bundle.write(folder, msgspec.structs.replace(manifest(), variants=(other,)))
    with pytest.raises(UnsafeError, match="is not a graph that its runtime reads"):
        Bundle.open(folder)


def _link(path: Path, target: Path) -> None:
    path.unlink()
    path.symlink_to(target)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd"])
def test_a_manifest_that_points_outside_is_refused(folder: Path, name: str) -> None:
    opened = Bundle.open(folder)
    files = opened.manifest.files | {name: next(iter(opened.manifest.files.values()))}
    reseal(folder, msgspec.structs.replace(opened.manifest, files=files))
    with pytest.raises(UnsafeError, match="outside the bundle"):
        Bundle.open(folder)


def reseal(folder: Path, changed: BundleManifest) -> None:
    """Write what an attacker who knows the format would write: a manifest with a valid digest."""
    sealed.write(folder / MANIFEST, changed)


def test_a_changed_pipeline_contradicts_the_fingerprint(folder: Path) -> None:
    pipeline = msgspec.structs.replace(PIPELINE, max_tokens=17)
    reseal(folder, msgspec.structs.replace(Bundle.open(folder).manifest, pipeline=pipeline))
    with pytest.raises(UnsafeError, match="its fingerprint does not match its pipeline"):
        Bundle.open(folder)


def test_another_tokenizer_contradicts_the_fingerprint(folder: Path) -> None:
    (folder / "tokenizer.json").write_bytes(b"another")
    with pytest.raises(UnsafeError, match=r"tokenizer.json is not the file its fingerprint was computed from"):
        Bundle.open(Bundle.write(folder, manifest()).folder)


def test_a_variant_without_its_file_contradicts_the_manifest(folder: Path) -> None:
    (folder / "onnx/model.onnx").unlink()
    with pytest.raises(UnsafeError, match=r"it does not list the variant files onnx/model.onnx"):
        Bundle.open(Bundle.write(folder, manifest()).folder)


@pytest.mark.parametrize("field", sorted(set(ModelSpec.__struct_fields__)))
def test_everything_in_the_pipeline_changes_the_fingerprint(field: str) -> None:
    other = {
        str: "x",
        Similarity: Similarity.DOT,
        Task: Task.RERANK,
        int: 99,
        bool: not getattr(PIPELINE, field),
        tuple: (1,),
        dict: {"x": "y"},
        type(None): "x",
    }
    changed = msgspec.structs.replace(PIPELINE, **{field: other[type(getattr(PIPELINE, field))]})
    assert fingerprint(SOURCE, changed, "t") != fingerprint(SOURCE, PIPELINE, "t")


@pytest.mark.parametrize(
    ("prompts", "default", "document", "query"),
    [
        ({}, None, None, None),
        ({"query": "q: ", "document": "d: "}, None, "document", "query"),
        ({"query": "q: ", "corpus": "c: ", "passage": "p: "}, None, "passage", "query"),
        ({"query": "q: ", "sts": "s: "}, "sts", "sts", "query"),
        ({"sts": "s: "}, None, None, None),
    ],
)
def test_prompts_as_sentence_transformers_picks_them(
    prompts: dict[str, str], default: str | None, document: str | None, query: str | None
) -> None:
    pipeline = msgspec.structs.replace(PIPELINE, prompts=prompts, default_prompt=default)
    assert (pipeline.document_prompt, pipeline.query_prompt) == (document, query)


def test_the_name_of_the_source_does_not_change_the_fingerprint() -> None:
    renamed = msgspec.structs.replace(SOURCE, name="elsewhere", versions={"torch": "3"})
    assert fingerprint(renamed, PIPELINE, "t") == fingerprint(SOURCE, PIPELINE, "t")


def test_an_edited_manifest_is_noticed(folder: Path) -> None:
    path = folder / MANIFEST
    path.write_text(path.read_text().replace('"minimum": 0.9999', '"minimum": 0.1'))
    with pytest.raises(UnsafeError, match="digest does not match"):
        Bundle.open(folder)


@pytest.mark.parametrize(
    ("text", "kind", "sentence"),
    [
        (b"{", UnsafeError, "damaged"),
        (b'{"format": 1}', UsageError, "format 1; this embedship reads format 2"),
        (b'{"format": 2, "surprise": 3}', UnsafeError, "damaged"),
    ],
)
def test_other_manifests_are_refused(folder: Path, text: bytes, kind: type[Exception], sentence: str) -> None:
    (folder / MANIFEST).write_bytes(text)
    with pytest.raises(kind, match=sentence):
        Bundle.open(folder)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a bundle"):
        Bundle.open(tmp_path)


def test_an_unknown_variant_is_answered_with_the_known_ones(folder: Path) -> None:
    with pytest.raises(UsageError, match="it has: onnx"):
        Bundle.open(folder).variant("tensorrt")
