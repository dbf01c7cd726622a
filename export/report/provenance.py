"""Provenance of a bundle: the inputs and options of its export, without paths of the machine."""

from __future__ import annotations

from dataclasses import fields
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from embedship.bundle import Provenance
from embedship.export.checkpoint.folder import SentenceTransformersFolder
from embedship.files.sealed import file_digest, sha256_of

if TYPE_CHECKING:
    from embedship.export.options import ExportOptions

# Options that change nothing in the bundle. The seed is recorded in a field of its own.
_LEFT_OUT = {"force", "sign", "seed"}


def describe_export(source: SentenceTransformersFolder, options: ExportOptions) -> Provenance:
    """Hash the files of the checkpoint, and record every option. A file in an option is recorded by name and sha256."""
    recorded: dict[str, str] = {}
    for field in fields(options):
        value = getattr(options, field.name)
        if field.name not in _LEFT_OUT and value is not None and value is not False and value != ():
            is_folder = field.name == "base" and Path(value).is_dir()  # an adapter's base; otherwise a hub id
            recorded[field.name] = _text(Path(value) if is_folder else value)
    return Provenance(files=_files(source), options=recorded, seed=options.seed)


def _files(source: SentenceTransformersFolder) -> dict[str, str]:
    """Hash the files of the checkpoint and its modules. Deeper folders, such as other exports, are skipped."""
    modules = (module.folder for module in source.modules if module.folder.is_dir())  # Normalize may have no folder
    folders = {source.path, *modules}
    paths = sorted(path for folder in folders for path in folder.iterdir() if path.is_file())
    return {path.relative_to(source.path).as_posix(): sha256_of(path) for path in paths}


def _text(value: Any) -> str:
    """Format a value without absolute paths, so that runs on different machines agree."""
    if isinstance(value, Path):
        return f"{value.name} {_digests(value)}"
    if isinstance(value, StrEnum | str):
        return str(value)
    return msgspec.json.encode(value, order="deterministic").decode()


def _digests(path: Path) -> str:
    if path.is_file():
        return file_digest(path)
    inner = sorted(p for p in path.iterdir() if p.is_file())
    return " ".join(f"{p.name} {file_digest(p)}" for p in inner)
