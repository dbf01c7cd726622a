"""Files that can run code when they are opened. The user allows a file by giving its hash."""

from __future__ import annotations

import hashlib
import io
import pickle
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from embedship.errors import UnsafeError
from embedship.files.sealed import sha256_of

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_WEIGHTS = ("pytorch_model*.bin", "adapter_model*.bin")


def pickles(folder: Path) -> list[Path]:
    """Return the pickles that a folder has instead of safetensors; only those with weights, if the names show that."""
    if any(folder.glob("*.safetensors")):
        return []
    weights = sorted(path for pattern in _WEIGHTS for path in folder.glob(pattern))
    return weights or sorted(path for path in folder.glob("*") if path.suffix in _PICKLES)


def refuse_pickles(folder: Path) -> None:
    """Raise UnsafeError with the file, its sha256 and both ways to continue."""
    for path in pickles(folder)[:1]:
        advice = f", or give --allow-pickle {sha256_of(path)}" if path.suffix == ".bin" else ""
        raise UnsafeError(
            f"{folder} has its weights only as a pickle ({path.name}), and a pickle can run code when it is opened: "
            "if you trust it, convert it with SentenceTransformer(folder).save_pretrained(new_folder)" + advice
        )


def convert_pickles(root: Path, allowed: Collection[str]) -> None:
    """Convert the pickles below `root` whose sha256 is in `allowed` to safetensors. All others stay.

    The opened bytes are those that were hashed, and only tensors are read from them (weights_only).
    """
    for folder in sorted({path.parent for path in root.rglob("*.bin")}):
        found = pickles(folder)
        contents = {path: path.read_bytes() for path in found}
        if found and all(hashlib.sha256(content).hexdigest() in allowed for content in contents.values()):
            _write(folder, contents)


def _write(folder: Path, contents: dict[Path, bytes]) -> None:
    from safetensors.torch import save_file

    tensors: dict[str, Any] = {}
    for path, content in contents.items():
        tensors |= _tensors(path, content)
    for path in (*contents, *folder.glob("*.bin.index.json")):
        path.unlink()
    stem = "adapter_model" if any(path.name.startswith("adapter_model") for path in contents) else "model"
    # Tied weights share memory in a pickle; safetensors needs a copy of each.
    save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()},
              folder / f"{stem}.safetensors", metadata={"format": "pt"})  # fmt: skip


def _tensors(path: Path, content: bytes) -> dict[str, Any]:
    import torch

    try:
        loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise UnsafeError(f"{path} contains more than tensors, or is damaged: {str(error).splitlines()[0]}") from error
    if not isinstance(loaded, dict) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise UnsafeError(f"{path} is not a dictionary of tensors by name")
    return loaded


def code_sha256(root: Path) -> str:
    """Return the sha256 over path, length and bytes of every *.py file below `root`, sorted by path."""
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()


@contextmanager
def private_modules(folder: Path) -> Iterator[None]:
    """Use `folder` as the cache into which transformers copies a model's code before importing it.

    Afterwards the code is no longer importable, and modules imported earlier from the real cache are restored.
    """
    from transformers import dynamic_module_utils as dynamic

    before, place = dynamic.HF_MODULES_CACHE, str(folder)
    loaded_modules = _remove_modules(dynamic.TRANSFORMERS_DYNAMIC_MODULE_NAME)
    dynamic.HF_MODULES_CACHE = place
    try:
        yield
    finally:
        dynamic.HF_MODULES_CACHE = before
        sys.path[:] = [entry for entry in sys.path if entry != place]
        _remove_modules(dynamic.TRANSFORMERS_DYNAMIC_MODULE_NAME)
        sys.modules.update(loaded_modules)


def _remove_modules(package: str) -> dict[str, ModuleType]:
    """Remove a package from sys.modules and return its modules: Python imports submodules from its own folder."""
    names = [name for name in sys.modules if name.partition(".")[0] == package]
    return {name: sys.modules.pop(name) for name in names}
