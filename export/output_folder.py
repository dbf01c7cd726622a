"""Output folder of an export: it becomes the bundle at the end, or is removed completely."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from pathlib import Path

from embedship.bundle import MANIFEST, unexpected_files
from embedship.errors import UsageError
from embedship.files import atomic_folder


def output_folder(target: Path, force: bool) -> AbstractContextManager[Path]:
    """Yield an empty folder that becomes `target` if the block succeeds, and is removed if it fails.

    An existing `target` is refused, unless it is an empty folder, or a bundle and `force` is set. Other folders and
    files are never replaced.
    """
    return atomic_folder.write_folder_atomically(target, lambda folder: _require_replaceable(folder, force))


def refuse_occupied(target: Path, force: bool) -> None:
    """Raise UsageError if `output_folder` would refuse `target`."""
    atomic_folder.refuse_occupied(target, lambda folder: _require_replaceable(folder, force))


def _require_replaceable(target: Path, force: bool) -> None:
    if not (target / MANIFEST).is_file():
        raise UsageError(f"{target} exists and is not a bundle: give --out another name")
    if foreign := _foreign(target):
        raise UsageError(f"{target} contains more than a bundle ({', '.join(foreign[:3])}): give --out another name")
    if not force:
        raise UsageError(f"{target} already contains a bundle: give --out another name, or --force to replace it")


def _foreign(target: Path) -> list[str]:
    """Return files that no export wrote. A damaged bundle, or one of another version, may be replaced."""
    try:
        listed = list(json.loads((target / MANIFEST).read_bytes())["files"])
    except (ValueError, KeyError, TypeError):
        listed = []
    return unexpected_files(target, listed)
