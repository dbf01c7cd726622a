"""The house: arrows run one way, a server needs no torch, and no room is imported by its bare name."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("export", "serve", "monitor")
MAY_IMPORT = {
    "embedship": set(),
    "monitor": set(),
    "export": {"embedship", "monitor"},
    "serve": {"embedship", "monitor"},
}
TORCH = {"torch", "transformers", "sentence_transformers", "optimum", "peft", "nncf", "onnx"}


# As on a serving image. Not `sys.modules[name] = None`: scipy asks there whether torch has been loaded.
MISSING = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {sorted(TORCH)}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
"""


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            yield node.module or ""


def room_of(module: str) -> str | None:
    """The folder of ours that an import path lies in."""
    parts = module.split(".")
    if parts[0] != "embedship":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else "embedship"


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_arrows_run_one_way(room: str) -> None:
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    for path in files:
        for module in imports(path):
            target = room_of(module)
            assert target in {None, room, *MAY_IMPORT[room]}, f"{path.relative_to(ROOT)} imports {module}"
            assert module.split(".")[0] not in ROOMS, f"{path.relative_to(ROOT)}: import embedship.{module}"
            assert room == "export" or module.split(".")[0] not in TORCH, f"{path.relative_to(ROOT)} imports {module}"


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=120, check=False)


def test_the_server_starts_where_torch_is_missing() -> None:
    doors = "embedship.serve.http.app, embedship.serve.commands.serve, embedship.encoder, embedship.serve.devices.worker_main"  # noqa: E501
    answer = run(f"{MISSING}import {doors}\nprint('fine')")
    assert answer.stdout == "fine\n", answer.stderr


def test_the_block_is_a_block() -> None:
    assert "ModuleNotFoundError: torch" in run(MISSING + "import torch").stderr


def test_no_stray_copy_of_a_room() -> None:
    code = (
        "import sys, embedship.export.commands.export, embedship.serve.http.app, embedship.monitor.observer\n"
        f"print([room for room in {ROOMS} if room in sys.modules])"
    )
    answer = run(code)
    assert answer.stdout == "[]\n", answer.stderr


def test_a_server_is_ready_without_what_can_wait() -> None:
    """Each of these takes 0.1 s or more of a cold start; the monitor's thread loads its own share of scipy."""
    later = ("scipy.stats", "scipy.spatial", "scipy.sparse", "pyarrow", "faiss", "httpx", "onnx")
    code = f"import sys, embedship.serve.main\nprint([name for name in {later} if name in sys.modules])"
    answer = run(code)
    assert answer.stdout == "[]\n", answer.stderr


def test_asking_for_help_loads_no_room() -> None:
    code = (
        "import sys\nfrom embedship.commands.main import run\nassert run(['--help']) == 0\n"
        "heavy = [m for m in sys.modules if m.startswith('embedship.') and m.split('.')[1] in "
        f"{ROOMS} or m in ('torch', 'numpy', 'faiss', 'openvino')]\nprint('loaded', heavy)"
    )
    answer = run(code)
    assert answer.stdout.endswith("loaded []\n"), answer.stdout + answer.stderr
