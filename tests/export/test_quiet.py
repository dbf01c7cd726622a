from __future__ import annotations

import subprocess
import sys

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
        ("from embedship.export.quiet import stay_offline; stay_offline()", "embedship.export.openvino"),
    ],
)
def test_no_library_can_send_telemetry(first: str, module: str) -> None:
    """openvino and nncf report imports and quantisations through openvino_telemetry, which they can do without."""
    code = CODE.format(first=first, module=module)
    answer = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout == "[]\n"
