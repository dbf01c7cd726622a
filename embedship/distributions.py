"""Distributions that install the same module, such as the CPU and the GPU build of one library."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

SHARED = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "faiss": ("faiss-cpu", "faiss-gpu", "faiss-gpu-cuvs"),
}


def installed_version(name: str) -> str:
    """Return the version of a module's distribution, whichever one is installed. Raises PackageNotFoundError."""
    if versions := _installed(SHARED.get(name, (name,))):
        return next(iter(versions.values()))
    raise PackageNotFoundError(name)


def conflicts() -> list[str]:
    """Return a message, with what to do, for each module that two installed distributions provide."""
    return [
        f"{' and '.join(f'{name} {release}' for name, release in versions.items())} are installed over each other: the "
        f"module {module} is that of the last one. Run pip uninstall --yes {' '.join(versions)}, and then pip install "
        f"{' or '.join(f'{name}=={release}' for name, release in versions.items())}: one of them, not both"
        for module, names in SHARED.items()
        if len(versions := _installed(names)) > 1
    ]


def _installed(names: tuple[str, ...]) -> dict[str, str]:
    versions = {}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
