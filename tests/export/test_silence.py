from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import sys
{first}
import {module}
print(sorted(m for m in sys.modules if m.startswith("openvino_telemetry") and sys.modules[m]))
"""


@pytest.mark.parametrize(
    ("first", "module"),
    [
        ("", "embedship.engine.openvino"),
        ("from embedship.export.silence import stay_offline; stay_offline()", "embedship.export.variants.openvino"),
    ],
)
def test_no_library_can_send_telemetry(first: str, module: str) -> None:
    """openvino and nncf report imports and quantisations through openvino_telemetry, which they can do without."""
    code = CODE.format(first=first, module=module)
    answer = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout == "[]\n"


@pytest.mark.parametrize(
    "module",
    ["embedship.engine.onnxruntime", "embedship.export.variants.onnx", "embedship.export.variants.smoothquant"],
)
def test_onnx_runtime_does_not_get_ready_to_report(tmp_path: Path, module: str) -> None:
    """Its uploader opens a session file among the temporary files, and a device id at home, as soon as it is loaded."""
    environment = {**os.environ, "TMPDIR": str(tmp_path), "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    subprocess.run([sys.executable, "-P", "-c", f"import {module}"], env=environment, check=True)
    assert [each.name for each in tmp_path.rglob("*") if each.name in (".ses", "deviceid")] == []
