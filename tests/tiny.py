"""A bundle and an index of a few kilobytes that answer like real ones, for tests that open many of them."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from embedship.bundle import GOLDEN, TOKENIZER, Bundle, BundleManifest, fingerprint
from embedship.codes import Int8Scale
from embedship.encoder import Encoder
from embedship.files.sealed import sha256_of
from embedship.golden_texts import GoldenTexts
from embedship.serve.documents import store
from embedship.serve.documents.store import DOCUMENTS, Document
from embedship.serve.index.exact_vectors import ExactVectors
from embedship.serve.index.manifest import TruncatedTexts
from embedship.serve.indexing import build
from embedship.serve.indexing.build import EmbeddingInfo, IndexOptions

DIMENSION, WORDS, DOCUMENT_COUNT = 16, 64, 24


def write_bundle(folder: Path, real: BundleManifest) -> Bundle:
    """A model that gives the normalised mean of word vectors. The rest of the manifest is that of a real bundle."""
    (folder / "onnx").mkdir(parents=True)
    onnx.save(_graph(), str(folder / "onnx" / "model.onnx"))
    (folder / TOKENIZER).write_text(json.dumps(_tokenizer()))
    pipeline = msgspec.structs.replace(
        real.pipeline,
        dimension=DIMENSION,
        dimensions=(DIMENSION,),
        max_tokens=16,
        inputs=("input_ids", "attention_mask"),
    )
    digest = sha256_of(folder / TOKENIZER)
    manifest = msgspec.structs.replace(
        real,
        pipeline=pipeline,
        tokenizer_sha256=digest,
        fingerprint=fingerprint(real.source, pipeline, digest),
        variants=(msgspec.structs.replace(real.variants[0], path="onnx/model.onnx"),),
        choice=msgspec.structs.replace(real.choice, variant=real.variants[0].name),
        codes=msgspec.structs.replace(real.codes, int8=(Int8Scale(real.codes.int8[0].scale[:DIMENSION]),)),
    )
    texts = [f"w{n} w{n + 1} w{2 * n}" for n in range(20)]
    empty = GoldenTexts(list(texts), [[1]], np.zeros((1, DIMENSION), dtype=np.float32))
    empty.save(folder / GOLDEN)
    with Encoder.open(Bundle.write(folder, manifest)) as encoder:
        tokens = encoder.tokenizer(texts)
        GoldenTexts(list(texts), tokens.ids, encoder.encode_tokens(tokens)).save(folder / GOLDEN)
    return Bundle.write(folder, manifest)


def write_index(folder: Path, bundle: Bundle) -> Path:
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    rows = draw.standard_normal((DOCUMENT_COUNT, DIMENSION)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    lines = (Document(str(n), f"w{n} w{n + 1}", None, {"kind": f"k{n % 3}"}) for n in range(DOCUMENT_COUNT))
    store.write(folder / DOCUMENTS, enumerate(lines))
    embedded = EmbeddingInfo(bundle.plain.name, DOCUMENT_COUNT, False, None, TruncatedTexts())
    truth = ExactVectors.write(folder, [rows], rows.shape)
    build.finish(folder, truth, bundle, embedded, IndexOptions(), None, lambda *_: None)
    return folder


def _tokenizer() -> dict[str, object]:
    vocabulary = {"[PAD]": 0, "[UNK]": 1} | {f"w{n}": n + 2 for n in range(WORDS)}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"},
    }


def _graph() -> onnx.ModelProto:
    words = np.random.default_rng(1).standard_normal((WORDS + 2, DIMENSION)).astype(np.float32)
    ids, mask = (helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "s"])
                 for name in ("input_ids", "attention_mask"))  # fmt: skip
    out = helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["n", DIMENSION])
    nodes = [
        helper.make_node("Gather", ["words", "input_ids"], ["tokens"]),
        helper.make_node("Cast", ["attention_mask"], ["kept"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["kept", "last"], ["weights"]),
        helper.make_node("Mul", ["tokens", "weights"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "width"], ["sums"], keepdims=0),
        helper.make_node("LpNormalization", ["sums"], ["sentence_embedding"], axis=-1, p=2),
    ]
    constants = {"words": words, "last": np.array([2]), "width": np.array([1])}
    initial = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "tiny", [ids, mask], [out], initial)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
