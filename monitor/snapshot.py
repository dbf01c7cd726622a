"""Saves and loads the monitor's state, so that it outlives a restart: one small file, written atomically.

The file has the fingerprint of its model and a digest of its content. The file of another model is renamed, so that
a rollback to that model finds its state again. A file of another model or a damaged file causes a warning, not a crash:
monitoring then starts without saved state.
"""

import hashlib
import os
import tempfile
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from embedship.monitor.drift.window import QueryWindow
from embedship.monitor.errors import SnapshotMismatch, SnapshotUnreadable
from embedship.monitor.onset import StateSince
from embedship.monitor.recall.feedback import JudgedQuery
from embedship.monitor.recall.rolling import RecallMemory

NAME = "monitor.safetensors"
ASIDE = "monitor.{}.safetensors"  # state of another model: the first 16 digits of its fingerprint
FORMAT = 1
MODELS = 8  # files of other models to keep; the oldest are deleted
KEY = "embedship.monitor"


class BaselineOrigin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the probe baseline was measured on."""

    model: str  # fingerprint
    index: str  # digest
    missing: int = 0  # labels of documents that were not in the index at that time


class MonitorState(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The saved state except for the query window. `index` and `probes` say what a baseline was measured on."""

    fingerprint: str
    created: float  # Unix time
    shadow: RecallMemory | None = None
    index: str = ""  # digest of the index that shadow recall was measured on
    probes: str = ""  # digest of the probes
    probe: RecallMemory | None = None
    ndcg_baseline: float = 0.0
    origin: BaselineOrigin | None = None  # of the probe baseline
    feedback: RecallMemory | None = None
    pairs: tuple[JudgedQuery, ...] = ()
    began: dict[str, StateSince] = {}


class _StateEnvelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The metadata of a snapshot file."""

    format: int
    digest: str
    texts: tuple[str | None, ...]
    remembered: msgspec.Raw


def write(folder: Path, state: MonitorState, window: QueryWindow | None) -> int:
    """Replace the snapshot in folder and return its size in bytes. Raises OSError; the old file is then unchanged."""
    tensors = {} if window is None else _tensors(window)
    texts = () if window is None else window.texts
    raw = msgspec.json.encode(state)
    envelope = _StateEnvelope(FORMAT, _digest(raw, texts, tensors), texts, msgspec.Raw(raw))
    # safetensors refuses a file without tensors.
    content = save(tensors or {"none": np.zeros(1, np.float32)}, {KEY: msgspec.json.encode(envelope).decode()})
    _move_aside(folder, state.fingerprint)
    _replace(folder / NAME, content)
    return len(content)


def read(folder: Path, fingerprint: str) -> tuple[MonitorState, QueryWindow | None] | None:
    """Read the state of this model as `write` wrote it; None if there is no file.

    Raises SnapshotUnreadable if the file is damaged, SnapshotMismatch if there are only files of other models.
    """
    if _aside(folder, fingerprint).exists() and _owner(folder / NAME) != fingerprint:
        return _read(_aside(folder, fingerprint))
    path = folder / NAME
    if not path.exists():
        return None
    state, window = _read(path)
    if state.fingerprint != fingerprint:
        raise SnapshotMismatch(f"{path} belongs to model {state.fingerprint[:12]}, this is {fingerprint[:12]}")
    return state, window


def read_others(folder: Path, fingerprint: str) -> list[MonitorState]:
    """Return the saved states of other models, newest first. Damaged files are skipped."""
    states = []
    for path in [folder / NAME, *folder.glob(ASIDE.format("*"))]:
        with suppress(SnapshotUnreadable, OSError):
            state, _ = _read(path)
            if state.fingerprint != fingerprint:
                states.append(state)
    return sorted(states, key=lambda each: each.created, reverse=True)


def _aside(folder: Path, fingerprint: str) -> Path:
    return folder / ASIDE.format(fingerprint[:16])


def _owner(path: Path) -> str | None:
    """Return the fingerprint of the model that a file belongs to; None if there is no readable file."""
    try:
        return _read(path)[0].fingerprint
    except SnapshotUnreadable:
        return None


def _move_aside(folder: Path, fingerprint: str) -> None:
    """Rename the file of another model before this model's file replaces it."""
    owner = _owner(folder / NAME)
    if owner is None or owner == fingerprint:
        return
    (folder / NAME).replace(_aside(folder, owner))
    aside = sorted(folder.glob(ASIDE.format("*")), key=lambda path: path.stat().st_mtime)
    for path in aside[:-MODELS]:
        path.unlink()


def _read(path: Path) -> tuple[MonitorState, QueryWindow | None]:
    try:
        with safe_open(path, framework="numpy") as file:
            envelope = msgspec.json.decode((file.metadata() or {})[KEY], type=_StateEnvelope)
            tensors = {name: file.get_tensor(name) for name in file.keys() if name != "none"}  # noqa: SIM118
        state, window = _decode(envelope, tensors)
    except OSError as error:
        raise SnapshotUnreadable(f"{path} cannot be read: {error.strerror or error}") from error
    except (SafetensorError, KeyError, ValueError) as error:
        raise SnapshotUnreadable(f"{path} is damaged: {error}") from error
    return state, window


def _decode(
    envelope: _StateEnvelope, tensors: dict[str, NDArray[np.generic]]
) -> tuple[MonitorState, QueryWindow | None]:
    if envelope.format != FORMAT:
        raise ValueError(f"it has format {envelope.format}, this version reads {FORMAT}")
    if envelope.digest != _digest(bytes(envelope.remembered), envelope.texts, tensors):
        raise ValueError("its digest does not match its content")
    state = msgspec.json.decode(envelope.remembered, type=MonitorState)
    if not tensors:
        return state, None
    return state, QueryWindow(
        np.asarray(tensors["vectors"], dtype=np.float32),
        np.asarray(tensors["times"], dtype=np.float64),
        np.asarray(tensors["calls"], dtype=np.int64),
        envelope.texts,
    )


def _tensors(window: QueryWindow) -> dict[str, NDArray[np.generic]]:
    return {"vectors": np.ascontiguousarray(window.vectors), "times": window.times, "calls": window.calls}


def _digest(raw: bytes, texts: tuple[str | None, ...], tensors: dict[str, NDArray[np.generic]]) -> str:
    digest = hashlib.sha256(raw)
    digest.update(msgspec.json.encode(texts))
    for name in sorted(tensors):
        digest.update(np.ascontiguousarray(tensors[name]).tobytes())
    return digest.hexdigest()


def _replace(path: Path, content: bytes) -> None:
    handle, temporary = tempfile.mkstemp(prefix=f".{NAME}.", dir=path.parent)  # created with mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(temporary).unlink()
        raise
