"""Distributions that install the same module over each other: a CPU and a GPU build of one library."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

SHARED = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "faiss": ("faiss-cpu", "faiss-gpu", "faiss-gpu-cuvs"),
}


def installed_version(name: str) -> str:
    """The version of a package, or of whichever distribution brings the module. Raises PackageNotFoundError."""
    if found := _installed(SHARED.get(name, (name,))):
        return next(iter(found.values()))
    raise PackageNotFoundError(name)


def conflicts() -> list[str]:
    """A sentence for each module that two installed distributions share, with the cure."""
    return [
        f"{' and '.join(f'{name} {release}' for name, release in found.items())} are installed over each other: the "
        f"module {module} is that of the last one. Run pip uninstall --yes {' '.join(found)}, and then pip install "
        f"{' or '.join(f'{name}=={release}' for name, release in found.items())}: one of them, not both"
        for module, names in SHARED.items()
        if len(found := _installed(names)) > 1
    ]


def _installed(names: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
