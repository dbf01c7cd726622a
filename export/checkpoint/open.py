"""Whatever was given as the checkpoint becomes a folder that can be read as it lies there.

A whole sentence-transformers folder is taken as it is. All else is put together in a temporary folder, of links where
that will do: a hub id is fetched, trusted pickles become safetensors, trusted code is copied, an adapter is merged
into its base, a plain transformers model gets the pooling that was asked for.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from embedship.bundle import AdapterMerge, Task
from embedship.errors import EmbedshipError, UsageError
from embedship.export.checkpoint import adapter, cross_encoder, hub, plain_transformers, trust
from embedship.export.checkpoint.folder import CheckpointOrigin, SentenceTransformersFolder, model_name
from embedship.export.steps import StepTimer
from embedship.files import atomic_folder


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenOptions:
    """How to open what does not explain itself, and what unsafe parts somebody vouches for."""

    base: str | None = None  # folder or hub id of an adapter's base
    pooling: str | None = None
    normalize: bool = False
    allow_pickle: tuple[str, ...] = ()  # sha256 each
    trust_remote_code: str | None = None  # sha256
    task: Task = Task.EMBED

    @property
    def vouches(self) -> bool:
        return bool(self.allow_pickle or self.trust_remote_code)


@contextmanager
def open_checkpoint(
    checkpoint: Path | str, how: OpenOptions, steps: StepTimer | None = None
) -> Iterator[SentenceTransformersFolder]:
    """Yield the folder to export; what was put together is removed at the end.

    Raises UsageError or UnsafeError for what cannot be opened, GateError for an adapter that does not merge exactly.
    """
    given, origin = _local(str(checkpoint), how)
    with atomic_folder.terminable(), tempfile.TemporaryDirectory(prefix="embedship-") as name:
        room = Path(name).resolve()
        code = trust.private_modules(room / "modules") if how.trust_remote_code else nullcontext()
        try:
            with code:
                yield _folder(given, origin, room, how, steps or StepTimer(Console(quiet=True)))
        except EmbedshipError as error:
            # What was put together is gone by the time its path is read: name what was given.
            error.args = (_named(str(error), room, given),)
            raise


def _local(text: str, how: OpenOptions) -> tuple[Path, CheckpointOrigin]:
    path = Path(text)
    if path.is_dir() or not hub.is_id(text):
        return path, CheckpointOrigin(name=model_name(path))
    snapshot = hub.fetch(text, pickles=bool(how.allow_pickle))
    return snapshot, CheckpointOrigin(name=text.partition("@")[0], revision=snapshot.name)


def _folder(
    given: Path, origin: CheckpointOrigin, room: Path, how: OpenOptions, steps: StepTimer
) -> SentenceTransformersFolder:
    if how.task is Task.RERANK:
        return cross_encoder.folder_of(_ready(given, room / "whole", how), origin)
    if adapter.is_adapter(given):
        with steps.step("merge the adapter"):
            folder, merge = _merged(given, room, how)
        return SentenceTransformersFolder.open(folder, replace(origin, merge=merge))
    if how.base:
        raise UsageError(f"{given} is no PEFT adapter, so --base means nothing")
    return SentenceTransformersFolder.open(_whole(given, room / "whole", how), origin, how.trust_remote_code)


def _merged(given: Path, room: Path, how: OpenOptions) -> tuple[Path, AdapterMerge]:
    if how.trust_remote_code:
        raise UsageError(f"{given} is an adapter, and none is merged into a base with code of its own: merge it first")
    if (given / "modules.json").is_file():
        plain_transformers.refuse_unused(given, how.pooling, how.normalize)
    base = _local(how.base or adapter.base_of(given), how)[0]
    return adapter.merge(_ready(given, room / "adapter", how), _whole(base, room / "base", how), room)


def _whole(given: Path, target: Path, how: OpenOptions) -> Path:
    """A folder with a pooling: the given one's own, or the one that was asked for."""
    ready = _ready(given, target, how)
    if not how.pooling or (ready / "modules.json").is_file():
        plain_transformers.refuse_unused(ready, how.pooling, how.normalize)
        return ready
    if ready == given:
        plain_transformers.symlink_tree(given, target)
    plain_transformers.pool(target, how.pooling, how.normalize)
    return target


def _ready(given: Path, target: Path, how: OpenOptions) -> Path:
    """A folder in which what is vouched for is safe to open: our own copy of its bytes, made before they are hashed."""
    if not how.vouches or not given.is_dir():
        return given
    plain_transformers.symlink_tree(given, target)
    for path in target.rglob("*.py"):
        source = path.resolve()
        path.unlink()
        shutil.copyfile(source, path)
    trust.convert_pickles(target, how.allow_pickle)
    return target


def _named(message: str, room: Path, given: Path) -> str:
    for part in ("whole", "adapter", "merged"):
        message = message.replace(str(room / part), str(given))
    return message.replace(str(room / "base"), "the base")
