from __future__ import annotations

from pathlib import Path

from embedship import levels
from embedship.bundle import Bundle


def test_a_level_that_buys_nothing_is_said_so(bundle: Path) -> None:
    variants = Bundle.open(bundle).manifest.variants
    speeds = dict.fromkeys((v.name for v in variants), 1000.0)
    idle = levels.idle(variants, speeds)
    assert idle == {"onnx-O3": "onnx-O3 fuses 25 operators and gains nothing here (1.00x of onnx): it is not chosen"}
    assert levels.idle(variants, speeds | {"onnx-O3": 1029.0}).keys() == {"onnx-O3"}
    assert levels.idle(variants, speeds | {"onnx-O3": 1031.0}) == {}
    del speeds["onnx-O3"]
    assert levels.idle(variants, speeds) == {}, "what was not measured is not judged"
