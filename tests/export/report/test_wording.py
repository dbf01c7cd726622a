from __future__ import annotations

import math
from collections.abc import Callable

import msgspec
import pytest

from embedship.bundle import BundleManifest, Objective, Quantisation
from embedship.export.report import wording

Make = Callable[..., BundleManifest]
replace = msgspec.structs.replace


def test_the_verdict_of_a_full_export(manifest: Make) -> None:
    assert wording.verdict(manifest()) == [
        "legal-matryoshka was exported in 5 variants, and each passed its gate.",
        "Serve uses openvino-int8 (OpenVINO, int8): the fastest of the 5 on this machine, 22,103 tokens/s, "
        "4.90 times plain ONNX.",
        "Compared with the checkpoint's own vectors, its vectors lose 0.0021 of cosine: mean 0.99790, worst 0.98610, "
        "over 213 texts.",
        "On medquad (1,000 queries, 10,038 documents, exact search) recall@10 is 0.6813, 99.6% of the "
        "checkpoint's 0.6840.",
        "A text's vector does not depend on the texts it is batched with: worst cosine 0.99998, 30 texts alone and in "
        "batches.",
    ]


@pytest.mark.parametrize(
    ("objective", "variant", "said"),
    [
        (
            Objective.LATENCY,
            "openvino-int8",
            "the quickest with one short text of the 5 on this machine, 0.64 ms per text",
        ),
        (Objective.SIZE, "onnx-int8", "the smallest of the 5 on this machine, 23.1 MB"),
        (
            Objective.SIZE,
            "openvino-int8",
            "chosen for size, because better variants gained under 3%, depend on their batch, or lost recall, 23.4 MB",
        ),
        (
            Objective.THROUGHPUT,
            "onnx",
            "chosen for throughput, because better variants gained under 3%, depend on their batch, or lost "
            "recall, 4,512 tokens/s",
        ),
    ],
)
def test_a_reason_is_only_given_where_it_is_true(manifest: Make, objective: Objective, variant: str, said: str) -> None:
    choice = replace(manifest().choice, objective=objective, variant=variant)
    assert said in wording.verdict(manifest(choice=choice))[1]


def test_the_only_variant(manifest: Make) -> None:
    made = manifest()
    choice = replace(made.choice, variant="onnx", tokens_per_second={"onnx": 4512.3})
    first, second, third, *_ = wording.verdict(manifest(variants=made.variants[:1], choice=choice))
    assert first == "legal-matryoshka was exported as onnx, which passed its gate."
    assert "the only one, 4,512 tokens/s, 1.00 times plain ONNX" in second
    assert "lose less than 0.000005 of cosine" in third


def test_what_was_not_measured_is_said(manifest: Make) -> None:
    made = manifest()
    variants = tuple(replace(v, invariance=replace(v.invariance, texts=0)) for v in made.variants)
    choice = replace(made.choice, tokens_per_second={}, latency_seconds={})
    bare = manifest(quality=None, variants=variants, choice=choice)
    *_, recall, company = wording.verdict(bare)
    assert recall == "Retrieval quality was not measured, because no questions were given (--eval DIR)."
    assert company.endswith("was not measured.")
    assert [tile.value for tile in wording.summary_tiles(bare)] == [
        "openvino-int8",
        "not measured",
        "0.99790",
        "not measured",
    ]
    quality = made.quality
    assert quality is not None
    other = manifest(quality=replace(quality, measured=quality.measured[:3]))
    assert "openvino-int8 was not compared with the checkpoint" in wording.recall(other)


@pytest.mark.parametrize(
    ("quantisation", "shuffled", "depends"),
    [
        (Quantisation.STATIC, 0.9999, False),
        (Quantisation.DYNAMIC, 0.9999, True),
        (Quantisation.STATIC, 0.98, True),
        (Quantisation.STATIC, math.nan, True),
    ],
)
def test_whether_a_vector_depends_on_its_batch(
    manifest: Make, quantisation: Quantisation, shuffled: float, depends: bool
) -> None:
    *others, last = manifest().variants
    invariance = replace(last.invariance, shuffled=shuffled)
    made = manifest(variants=(*others, replace(last, quantisation=quantisation, invariance=invariance)))
    assert ("vector depends on" in wording.verdict(made)[-1]) is depends


def test_a_checkpoint_that_finds_nothing_has_no_ratio(manifest: Make) -> None:
    quality = manifest().quality
    assert quality is not None
    nothing = [replace(row, metrics={**row.metrics, "recall@10": 0.0}) for row in quality.measured]
    made = manifest(quality=replace(quality, measured=tuple(nothing)))
    assert "recall@10 is 0.0000, compared with the checkpoint's 0.0000" in wording.recall(made)
    assert wording.summary_tiles(made)[-1].value == "not measured"
