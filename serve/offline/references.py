"""Which drift reference belongs to a bundle: the one given, else the one beside it, else the one in it."""

from __future__ import annotations

from pathlib import Path

from embedship.bundle import REFERENCE, Bundle
from embedship.errors import MismatchError, UnsafeError, UsageError
from embedship.monitor.drift.reference import DriftReference
from embedship.monitor.errors import MonitorError, ReferenceMismatch


def beside(bundle: Bundle) -> Path:
    """Where `embedship reference` writes: never into the bundle, which is sealed."""
    folder = bundle.folder.resolve()
    return folder.with_name(f"{folder.name}.reference.safetensors")


def find(bundle: Bundle, given: Path | None = None) -> DriftReference | None:
    """Open the reference of a bundle; None if there is none and none was given.

    Raises UsageError if the given one is not there, MismatchError if it belongs to another model, UnsafeError if it is
    damaged.
    """
    if given is not None:
        return read(given, bundle.fingerprint)
    if (path := beside(bundle)).exists():
        return read(path, bundle.fingerprint)
    if not (path := bundle.path(REFERENCE)).exists():
        return None
    if REFERENCE in bundle.manifest.files:
        bundle.verify([REFERENCE])
    return read(path, bundle.fingerprint)


def read(path: Path, fingerprint: str | None = None) -> DriftReference:
    """Open one file, and require it to belong to the model of this fingerprint if one is given."""
    if not path.is_file():
        raise UsageError(f"{path} is no drift reference: fit one with `embedship reference BUNDLE QUERIES.jsonl`")
    try:
        reference = DriftReference.load(path)
        if fingerprint is not None:
            reference.require(fingerprint)
    except ReferenceMismatch as error:
        raise MismatchError(f"{path}: {error}") from error
    except MonitorError as error:
        raise UnsafeError(str(error)) from error
    return reference
