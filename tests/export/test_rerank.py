"""A cross-encoder through the gates: its scores, their order, and no company that changes them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from rich.console import Console
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from embedship.bundle import FORMAT, TASK_FORMAT, Bundle, Task
from embedship.codes import Vectors
from embedship.commands.main import run
from embedship.encoder import Encoder
from embedship.errors import GateError, UnsafeError, UsageError
from embedship.export import probe_pairs
from embedship.export.build import build
from embedship.export.checkpoint.cross_encoder import folder_of
from embedship.export.checkpoint.folder import CheckpointOrigin
from embedship.export.gates import parity
from embedship.export.gates.probe_set import ProbeSet
from embedship.export.options import ExportOptions
from embedship.export.steps import StepTimer
from embedship.golden_texts import ALONE_FLOOR
from embedship.likeness import similarity
from embedship.tokens import Text

from ..instruction_sets import LIMITED_TO_AVX2, keeps_int8_for_vnni

ASKED: list[Text] = [
    ("How do I open a file?", "open(path) returns a file object."),
    ("How do I open a file?", "Bananas are yellow."),
    ("sort a list", "list.sort() sorts in place. " * 60),
    ("sort " * 200, "A short passage."),
    ("[SEP] [CLS]", "a [SEP] b"),
    ("", ""),
]


def theirs(folder: Path, texts: list[Text]) -> Vectors:
    """transformers' own logits, pair by pair, with nothing of ours in between."""
    model = AutoModelForSequenceClassification.from_pretrained(str(folder)).eval()
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    with torch.no_grad():
        given = [tokenizer([query], [text], truncation=True, return_tensors="pt") for query, text in texts]
        return np.asarray([model(**one).logits[0].numpy() for one in given], dtype=np.float32)


def test_every_variant_gives_the_scores_of_transformers(cross_encoder: Path, rerank_bundle: Path) -> None:
    expected = theirs(cross_encoder, ASKED)
    assert expected.std() > 0.3, "scores that are all alike would test nothing"
    opened = Bundle.open(rerank_bundle)
    openvino = ["openvino"] if LIMITED_TO_AVX2 else ["openvino", "openvino-int8"]
    assert [v.name for v in opened.manifest.variants] == ["onnx", "onnx-int8", *openvino]
    for variant in opened.manifest.variants:
        with Encoder.open(opened, variant.name, task=Task.RERANK) as encoder:
            found = encoder.encode(ASKED)
        floor = opened.manifest.floors[variant.precision]
        assert similarity(Task.RERANK, expected, found).mean() >= floor.minimum, variant.name
        if variant.name == "onnx":
            np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_manifest_says_the_task_and_what_was_measured(rerank_bundle: Path) -> None:
    manifest = Bundle.open(rerank_bundle).manifest
    assert (manifest.format, manifest.pipeline.task, manifest.pipeline.dimension) == (TASK_FORMAT, Task.RERANK, 1)
    assert manifest.pipeline.inputs == ("input_ids", "attention_mask", "token_type_ids")
    for variant in manifest.variants:
        floors = manifest.floors[variant.precision]
        assert variant.parity.minimum >= floors.minimum
        assert variant.parity.overlap >= floors.overlap
        assert variant.invariance.worst >= ALONE_FLOOR
        assert variant.invariance.other_side is None
    assert Bundle.open(rerank_bundle).verify() > 8


def test_a_bundle_that_embeds_is_written_as_before(bundle: Path) -> None:
    written = json.loads((bundle / "bundle.json").read_text())
    opened = Bundle.open(bundle)
    assert (opened.manifest.format, opened.task) == (FORMAT, Task.EMBED)
    assert "task" not in written["pipeline"]
    assert "task" not in json.loads(msgspec.json.encode(opened.manifest.pipeline))


def test_a_manifest_whose_task_is_none_of_its_format_is_refused(rerank_bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(rerank_bundle, folder)
    Bundle.write(folder, msgspec.structs.replace(Bundle.open(folder).manifest, format=FORMAT))
    with pytest.raises(UnsafeError, match="format 2 is not the format of task rerank"):
        Bundle.open(folder)


def test_each_task_is_refused_where_the_other_is_wanted(bundle: Path, rerank_bundle: Path) -> None:
    with pytest.raises(UsageError, match=r"re-ranks passages, but this needs a bundle that embeds texts"):
        Encoder.open(rerank_bundle)
    with pytest.raises(UsageError, match=r"embeds texts.*re-ranks passages"):
        Encoder.open(bundle, task=Task.RERANK)


def test_token_types_reach_the_model(cross_encoder: Path, rerank_bundle: Path) -> None:
    """Without them the scores are others: the fixture's second text has an embedding of its own."""
    with Encoder.open(rerank_bundle, "onnx", task=Task.RERANK) as encoder:
        tokens = encoder.tokenizer(ASKED)
        flat = encoder.encode_tokens(type(tokens)(tokens.ids, tokens.cut))
    assert np.abs(flat - theirs(cross_encoder, ASKED)).max() > 0.05


def test_what_a_pair_lost_is_counted(cross_encoder: Path, rerank_bundle: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(str(cross_encoder))
    with Encoder.open(rerank_bundle, "onnx", task=Task.RERANK) as encoder:
        tokens = encoder.tokenizer(ASKED)
    whole = [len(tokenizer([query], [text], truncation=False)["input_ids"][0]) for query, text in ASKED]
    assert tokens.cut == [max(0, length - 128) for length in whole]
    assert sum(map(bool, tokens.cut)) == 2


def test_another_head_does_not_pass_the_gate(cross_encoder: Path, rerank_bundle: Path) -> None:
    """The gate compares with the checkpoint, and sees a score that is off by a constant, or upside down."""
    with Encoder.open(rerank_bundle, "onnx", task=Task.RERANK) as encoder:
        real = probe_pairs.sample(probe_pairs.real(None), 40, 0)
        right = encoder.encode(real)
        for wrong in (right + 0.5 * right.std(), -right):
            probes = ProbeSet(real, wrong, 0, 128, either_side=False)
            with pytest.raises(GateError, match="does not reproduce the checkpoint's scores: minimum likeness"):
                parity.require(encoder, probes, parity.floors((), Task.RERANK))
        order = np.argsort(np.argsort(-right[:, 0])).astype(np.float32)[:, None]
        assert probe_pairs.concordance(real, right, right) == 1
        assert probe_pairs.concordance(real, order, right) == 0


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda c: c.update(id2label={"0": "a", "1": "b"}), "returns 2 logits"),
        (lambda c: c.update(architectures=["BertModel"]), "is a BertModel, and --task rerank needs a cross-encoder"),
        (lambda c: c.update(sentence_transformers={"activation_fn": "torch.nn.Tanh"}), "Tanh to its logit"),
        (lambda c: c.update(auto_map={"AutoModel": "x.Y"}), "needs remote code"),
    ],
)
def test_what_is_no_cross_encoder_is_refused(
    cross_encoder: Path, tmp_path: Path, change: Callable[[dict[str, object]], None], cause: str
) -> None:
    folder = tmp_path / "changed"
    shutil.copytree(cross_encoder, folder)
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises((UsageError, UnsafeError), match=cause):
        folder_of(folder, CheckpointOrigin("changed"))


def test_a_head_that_was_never_saved_is_refused(minilm: Path, cross_encoder: Path, tmp_path: Path) -> None:
    """transformers would draw one, and both sides of the gate would share it."""
    folder = tmp_path / "headless"
    shutil.copytree(cross_encoder, folder)
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["classifier.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match="its scores would come from random numbers"):
        build(folder, tmp_path / "out", ExportOptions(task=Task.RERANK), StepTimer(Console(quiet=True)))
    assert not (tmp_path / "out").exists()


def test_options_of_embedding_are_refused(
    cross_encoder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = ["export", str(cross_encoder), "--out", str(tmp_path / "b"), "--task", "rerank", "--pooling", "mean"]
    assert run(command) == 2
    assert "--pooling applies to embedding models only" in capfd.readouterr().err


@keeps_int8_for_vnni
def test_the_plan_of_an_export(
    cross_encoder: Path, rerank_bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = ["export", str(cross_encoder), "--out", str(tmp_path / "b"), "--task", "rerank", "--dry-run", "--json"]
    assert run(command) == 0
    planned = json.loads(capfd.readouterr().out)
    opened = Bundle.open(rerank_bundle)
    assert planned["fingerprint"] == opened.fingerprint
    assert set(planned["files"]) == {*opened.manifest.files, "bundle.json"}


def test_pairs_of_a_file_stay_together_by_query(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    rows = [("a", "1"), ("b", "2"), ("a", "3"), ("a", "1")]
    file.write_text("".join(json.dumps({"query": q, "text": t}) + "\n" for q, t in rows))
    assert probe_pairs.real(file) == [("a", "1"), ("a", "3"), ("b", "2")]
    assert {query for query, _ in probe_pairs.sample(probe_pairs.real(file), 2, 0)} in ({"a"}, {"a", "b"})
