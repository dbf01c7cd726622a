"""What the monitor must not forget when the server is restarted: one small file, written whole or not at all.

Bound to the model by its fingerprint, and checked by a digest. A file that is foreign or damaged is worth a warning,
not a crash: the monitor then begins anew.
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

from embedship.monitor.errors import SnapshotMismatch, SnapshotUnreadable
from embedship.monitor.feedback import Pair
from embedship.monitor.onset import Began
from embedship.monitor.recall import RecallMemory
from embedship.monitor.recent import Window

NAME = "monitor.safetensors"
FORMAT = 1
KEY = "embedship.monitor"


class Remembered(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All but the window of queries. What is bound to more than the model says to what: an index, a file of probes."""

    fingerprint: str
    created: float  # Unix time
    shadow: RecallMemory | None = None
    index: str = ""  # digest of the index that shadow recall was measured on
    probes: str = ""  # digest of the probes
    probe: RecallMemory | None = None
    ndcg_baseline: float = 0.0
    feedback: RecallMemory | None = None
    pairs: tuple[Pair, ...] = ()
    began: dict[str, Began] = {}


class _Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    digest: str
    texts: tuple[str | None, ...]
    remembered: msgspec.Raw


def write(folder: Path, remembered: Remembered, window: Window | None) -> int:
    """Replace the snapshot in folder and return its size in bytes. Raises OSError; the old one is then still whole."""
    tensors = {} if window is None else _tensors(window)
    texts = () if window is None else window.texts
    raw = msgspec.json.encode(remembered)
    envelope = _Envelope(FORMAT, _digest(raw, texts, tensors), texts, msgspec.Raw(raw))
    # safetensors refuses a file without tensors.
    content = save(tensors or {"none": np.zeros(1, np.float32)}, {KEY: msgspec.json.encode(envelope).decode()})
    _replace(folder / NAME, content)
    return len(content)


def read(folder: Path, fingerprint: str) -> tuple[Remembered, Window | None] | None:
    """Read what write wrote; None if there is none. Raises SnapshotUnreadable if it is damaged or of another model."""
    path = folder / NAME
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            envelope = msgspec.json.decode((file.metadata() or {})[KEY], type=_Envelope)
            tensors = {name: file.get_tensor(name) for name in file.keys() if name != "none"}  # noqa: SIM118
        remembered, window = _opened(envelope, tensors)
    except OSError as error:
        raise SnapshotUnreadable(f"{path} cannot be read: {error.strerror or error}") from error
    except (SafetensorError, KeyError, ValueError) as error:
        raise SnapshotUnreadable(f"{path} is damaged: {error}") from error
    if remembered.fingerprint != fingerprint:
        raise SnapshotMismatch(f"{path} belongs to model {remembered.fingerprint[:12]}, this is {fingerprint[:12]}")
    return remembered, window


def _opened(envelope: _Envelope, tensors: dict[str, NDArray[np.generic]]) -> tuple[Remembered, Window | None]:
    if envelope.format != FORMAT:
        raise ValueError(f"it has format {envelope.format}, this version reads {FORMAT}")
    if envelope.digest != _digest(bytes(envelope.remembered), envelope.texts, tensors):
        raise ValueError("its digest is that of other content")
    remembered = msgspec.json.decode(envelope.remembered, type=Remembered)
    if not tensors:
        return remembered, None
    return remembered, Window(
        np.asarray(tensors["vectors"], dtype=np.float32),
        np.asarray(tensors["times"], dtype=np.float64),
        np.asarray(tensors["calls"], dtype=np.int64),
        envelope.texts,
    )


def _tensors(window: Window) -> dict[str, NDArray[np.generic]]:
    return {"vectors": np.ascontiguousarray(window.vectors), "times": window.times, "calls": window.calls}


def _digest(raw: bytes, texts: tuple[str | None, ...], tensors: dict[str, NDArray[np.generic]]) -> str:
    digest = hashlib.sha256(raw)
    digest.update(msgspec.json.encode(texts))
    for name in sorted(tensors):
        digest.update(np.ascontiguousarray(tensors[name]).tobytes())
    return digest.hexdigest()


def _replace(path: Path, content: bytes) -> None:
    handle, temporary = tempfile.mkstemp(prefix=f".{NAME}.", dir=path.parent)  # for the owner's eyes only
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
