"""Drift reference of a bundle: the given file, or BUNDLE.reference.safetensors, or the file inside the bundle."""

from __future__ import annotations

from pathlib import Path

from embedship.bundle import REFERENCE, Bundle
from embedship.errors import MismatchError, UnsafeError, UsageError
from embedship.monitor.drift.reference import DriftReference
from embedship.monitor.errors import MonitorError, ReferenceMismatch


def default_path(bundle: Bundle) -> Path:
    """Return the path that `embedship reference` writes to.

    The file is next to the bundle, because the files of a bundle must not change.
    """
    folder = bundle.folder.resolve()
    return folder.with_name(f"{folder.name}.reference.safetensors")


def find(bundle: Bundle, path: Path | None = None) -> DriftReference | None:
    """Open the drift reference of a bundle: `path` if given, otherwise the default file, or the one in the bundle.

    Return None if there is none. Raises UsageError if `path` does not exist, MismatchError if the reference belongs to
    another model, UnsafeError if it is damaged.
    """
    if path is not None:
        return read(path, bundle.fingerprint)
    if (path := default_path(bundle)).exists():
        return read(path, bundle.fingerprint)
    if not (path := bundle.path(REFERENCE)).exists():
        return None
    if REFERENCE in bundle.manifest.files:
        bundle.verify([REFERENCE])
    return read(path, bundle.fingerprint)


def read(path: Path, fingerprint: str | None = None) -> DriftReference:
    """Open a drift reference. If `fingerprint` is given, raise MismatchError unless it belongs to that model."""
    if not path.is_file():
        raise UsageError(f"{path} is not a drift reference: create one with `embedship reference BUNDLE QUERIES.jsonl`")
    try:
        reference = DriftReference.load(path)
        if fingerprint is not None:
            reference.require(fingerprint)
    except ReferenceMismatch as error:
        raise MismatchError(f"{path}: {error}") from error
    except MonitorError as error:
        raise UnsafeError(str(error)) from error
    return reference
