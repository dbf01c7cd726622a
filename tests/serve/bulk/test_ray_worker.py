from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest

from embedship.bundle import Bundle
from embedship.device import DeviceAddress
from embedship.errors import MismatchError
from embedship.serve.bulk.ray_worker import RayEncoder, RayEncoderSpec


def test_another_bundle_or_release_on_a_node_is_refused(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    right = RayEncoderSpec(bundle, opened.manifest.digest, version("embedship"), "onnx", DeviceAddress.parse("cpu"))
    for wrong, sentence in (
        (right._replace(digest="0" * 64), "is another bundle than where the run was started"),
        (right._replace(release="0.0.1"), "and 0.0.1 where the run was started"),
    ):
        with pytest.raises(MismatchError, match=f"on node .*{sentence}"):
            RayEncoder().open(wrong, 1)
