"""Where a bundle is made: a folder that becomes the bundle at the end, or is gone without a trace."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from pathlib import Path

from embedship.bundle import MANIFEST, strangers
from embedship.errors import UsageError
from embedship.files import atomic_folder


def output_folder(target: Path, force: bool) -> AbstractContextManager[Path]:
    """Yield an empty folder that becomes `target` if the block ends well, and is removed if it does not.

    An existing `target` is refused, unless it is an empty folder, or a bundle and `force` is given: nothing but a
    bundle is ever replaced.
    """
    return atomic_folder.write_folder_atomically(target, lambda found: _require_replaceable(found, force))


def refuse_occupied(target: Path, force: bool) -> None:
    """Raise UsageError for a `target` that `output_folder` would refuse."""
    atomic_folder.refuse_occupied(target, lambda found: _require_replaceable(found, force))


def _require_replaceable(target: Path, force: bool) -> None:
    if not (target / MANIFEST).is_file():
        raise UsageError(f"{target} exists and is no bundle: give --out another name")
    if foreign := _foreign(target):
        raise UsageError(f"{target} holds more than a bundle ({', '.join(foreign[:3])}): give --out another name")
    if not force:
        raise UsageError(f"{target} already holds a bundle: give --out another name, or --force to replace it")


def _foreign(target: Path) -> list[str]:
    """Files that no export put there. Read leniently: a bundle of another version or a damaged one may be replaced."""
    try:
        listed = list(json.loads((target / MANIFEST).read_bytes())["files"])
    except (ValueError, KeyError, TypeError):
        listed = []
    return strangers(target, listed)
