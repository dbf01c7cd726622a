"""Imports run one way, between the folders and inside them; a server needs no torch."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("export", "serve", "monitor")
MAY_IMPORT = {
    "embedship": set(),
    "monitor": set(),
    "export": {"embedship", "monitor"},
    "serve": {"embedship", "monitor"},
}
# The packages and modules of each folder, bottom up: the members of a row import only from rows above theirs.
ORDER: dict[str, tuple[tuple[str, ...], ...]] = {
    "embedship": (
        (
            "charts",
            "codes",
            "distributions",
            "stdlib_docs",
            "terminal",
            "timing",
            "version",
        ),
        (
            "errors",
            "ranking",
        ),
        (
            "batches",
            "device",
            "files",
        ),
        ("bundle",),
        (
            "hardware",
            "likeness",
            "packing",
            "tokens",
            "transfer",
        ),
        (
            "engine",
            "golden_texts",
            "variant_choice",
        ),
        ("shapes",),
        ("encoder",),
        (
            "golden",
            "queries",
        ),
        ("tune",),
        ("commands",),
        ("__main__",),
    ),
    "monitor": (
        (
            "cpu_budget",
            "errors",
            "failures",
            "latch",
            "onset",
            "sample_queue",
            "state",
        ),
        (
            "canary",
            "diagnosis",
            "statistics",
        ),
        (
            "assets",
            "drift",
        ),
        ("recall",),
        (
            "observer",
            "snapshot",
        ),
        ("monitor",),
        ("series",),
        ("collector",),
    ),
    "export": (
        (
            "output_folder",
            "probe_texts",
            "silence",
            "steps",
        ),
        ("probe_pairs",),
        ("checkpoint",),
        ("variants",),
        ("variant_failures",),
        ("gates",),
        ("options",),
        ("report",),
        ("inputs",),
        (
            "build",
            "dry_run",
        ),
        ("commands",),
    ),
    "serve": (
        (
            "bulk",
            "errors",
            "interruption",
            "progress",
        ),
        (
            "api_keys",
            "browser_guard",
            "documents",
        ),
        (
            "client",
            "index",
        ),
        ("search",),
        (
            "live",
            "schemas",
            "setting_fields",
        ),
        (
            "milvus",
            "telemetry",
        ),
        (
            "devices",
            "indexing",
            "settings",
        ),
        (
            "batching",
            "offline",
        ),
        (
            "audit",
            "compare",
            "service",
        ),
        ("http",),
        ("main",),
        ("commands",),
    ),
}
TORCH = {"torch", "transformers", "sentence_transformers", "optimum", "peft", "nncf", "onnx"}


# As on a serving image. Not `sys.modules[name] = None`: scipy asks there whether torch has been loaded.
MISSING = f"""
import sys
import tomllib
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


def folder_of(module: str) -> str | None:
    """The folder of ours that an import path lies in."""
    parts = module.split(".")
    if parts[0] != "embedship":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in FOLDERS else "embedship"


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_imports_between_folders_run_one_way(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    for path in files:
        for module in imports(path):
            target = folder_of(module)
            assert target in {None, folder, *MAY_IMPORT[folder]}, f"{path.relative_to(ROOT)} imports {module}"
            assert module.split(".")[0] not in FOLDERS, f"{path.relative_to(ROOT)}: import embedship.{module}"
            assert folder == "export" or module.split(".")[0] not in TORCH, f"{path.relative_to(ROOT)} imports {module}"


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=120, check=False)


def test_the_server_starts_where_torch_is_missing() -> None:
    modules = (
        "embedship.serve.http.app, "
        "embedship.serve.commands.serve, "
        "embedship.encoder, "
        "embedship.serve.devices.worker_main"
    )
    answer = run(f"{MISSING}import {modules}\nprint('fine')")
    assert answer.stdout == "fine\n", answer.stderr


def test_the_block_is_a_block() -> None:
    assert "ModuleNotFoundError: torch" in run(MISSING + "import torch").stderr


def test_no_folder_is_imported_by_its_bare_name() -> None:
    code = (
        "import sys, embedship.export.commands.export, embedship.serve.http.app, embedship.monitor.observer\n"
        f"print([folder for folder in {FOLDERS} if folder in sys.modules])"
    )
    answer = run(code)
    assert answer.stdout == "[]\n", answer.stderr


def test_a_server_is_ready_without_what_can_wait() -> None:
    """Each of these takes 0.1 s or more of a cold start; the monitor's thread loads its own share of scipy."""
    later = ("scipy.stats", "scipy.spatial", "scipy.sparse", "pyarrow", "faiss", "httpx", "onnx")
    code = f"import sys, embedship.serve.main\nprint([name for name in {later} if name in sys.modules])"
    answer = run(code)
    assert answer.stdout == "[]\n", answer.stderr


def test_asking_for_help_loads_no_folder() -> None:
    code = (
        "import sys\nfrom embedship.commands.main import run\nassert run(['--help']) == 0\n"
        "heavy = [m for m in sys.modules if m.startswith('embedship.') and m.split('.')[1] in "
        f"{FOLDERS} or m in ('torch', 'numpy', 'faiss', 'openvino')]\nprint('loaded', heavy)"
    )
    answer = run(code)
    assert answer.stdout.endswith("loaded []\n"), answer.stdout + answer.stderr


def modules() -> dict[str, Path]:
    """Every module of the product, by its import path."""
    found: dict[str, Path] = {}
    for folder in MAY_IMPORT:
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            parts = parts if folder == "embedship" else ("embedship", *parts)
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def graph() -> dict[str, set[str]]:
    """Module -> the modules of ours that it imports anywhere: in functions and under TYPE_CHECKING also."""
    known = modules()
    edges: dict[str, set[str]] = {name: set() for name in known}
    for name, path in known.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                found = {f"{node.module}.{alias.name}" for alias in node.names}
                edges[name] |= {each if each in known else str(node.module) for each in found}
            elif isinstance(node, ast.Import):
                edges[name] |= {alias.name for alias in node.names}
        edges[name] = (edges[name] & set(known)) - {name}
    return edges


def place(module: str) -> tuple[str, str]:
    """The folder of a module, and the package or module directly inside that folder which it belongs to."""
    parts = module.split(".")
    folder = folder_of(module) or ""
    rest = parts[1:] if folder == "embedship" else parts[2:]
    return folder, rest[0] if rest else ""


@pytest.mark.parametrize("folder", ORDER)
def test_imports_inside_a_folder_follow_the_order_of_its_packages(folder: str) -> None:
    row = {name: number for number, names in enumerate(ORDER[folder]) for name in names}
    edges = graph()
    assert {place(module)[1] for module in edges if place(module)[0] == folder} - {""} == set(row)
    backwards = [
        f"{module} imports {target}"
        for module, targets in edges.items()
        for target in targets
        if place(module)[0] == place(target)[0] == folder and "" not in (place(module)[1], place(target)[1])
        if place(module)[1] != place(target)[1] and row[place(target)[1]] >= row[place(module)[1]]
    ]
    assert backwards == []


def test_no_modules_import_each_other() -> None:
    edges = graph()
    done: set[str] = set()
    under_way: list[str] = []

    def visit(module: str) -> None:
        assert module not in under_way, f"a circle: {' -> '.join([*under_way[under_way.index(module) :], module])}"
        if module not in done:
            under_way.append(module)
            for target in sorted(edges[module]):
                visit(target)
            done.add(under_way.pop())

    for module in edges:
        visit(module)


def test_every_package_opens_with_a_map_of_its_files() -> None:
    for path in modules().values():
        if path.name == "__init__.py" and len(files := [each.name for each in path.parent.glob("*.py")]) > 1:
            text = ast.get_docstring(ast.parse(path.read_text())) or ""
            missing = [
                name for name in files if not name.startswith("__") and not re.search(rf"(?m)^ *{name} ", text + " ")
            ]
            assert not missing, f"{path.relative_to(ROOT)} does not mention {', '.join(missing)}"


def test_every_package_is_installed() -> None:
    """A package that pyproject.toml does not list works in a checkout and is missing for users."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    files = [path.relative_to(ROOT) for folder in MAY_IMPORT for path in (ROOT / folder).rglob("__init__.py")]
    names = [".".join(path.parent.parts) for path in files]
    assert sorted(listed) == sorted(name if name.startswith("embedship") else f"embedship.{name}" for name in names)
