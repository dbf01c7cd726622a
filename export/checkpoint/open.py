"""Opens the checkpoint that the user names (a folder or a hub id) as a sentence-transformers folder.

A complete sentence-transformers folder is used as it is. Everything else is assembled in a temporary folder, with
symbolic links where possible: a hub id is fetched, trusted pickles are converted to safetensors, trusted code is
copied, an adapter is merged into its base, and a plain transformers model gets the requested pooling.
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
    """How to open a checkpoint: settings that it does not contain, and hashes of the unsafe parts that are trusted."""

    base: str | None = None  # folder or hub id of an adapter's base
    pooling: str | None = None
    normalize: bool = False
    allow_pickle: tuple[str, ...] = ()  # sha256 of each trusted file
    trust_remote_code: str | None = None  # sha256 of the trusted code
    task: Task = Task.EMBED

    @property
    def vouches(self) -> bool:
        return bool(self.allow_pickle or self.trust_remote_code)


@contextmanager
def open_checkpoint(
    checkpoint: Path | str, how: OpenOptions, steps: StepTimer | None = None
) -> Iterator[SentenceTransformersFolder]:
    """Yield the folder to export. Temporary files are removed at the end.

    Raises UsageError or UnsafeError for a checkpoint that cannot be opened, GateError for an adapter whose merged
    model differs from the unmerged one.
    """
    given, origin = _local(str(checkpoint), how)
    with atomic_folder.terminable(), tempfile.TemporaryDirectory(prefix="embedship-") as name:
        work_folder = Path(name).resolve()
        code = trust.private_modules(work_folder / "modules") if how.trust_remote_code else nullcontext()
        try:
            with code:
                yield _folder(given, origin, work_folder, how, steps or StepTimer(Console(quiet=True)))
        except EmbedshipError as error:
            # The temporary folder is gone when the message is read, so name the folder that the user gave.
            error.args = (_named(str(error), work_folder, given),)
            raise


def _local(text: str, how: OpenOptions) -> tuple[Path, CheckpointOrigin]:
    path = Path(text)
    if path.is_dir() or not hub.is_id(text):
        return path, CheckpointOrigin(name=model_name(path))
    snapshot = hub.fetch(text, pickles=bool(how.allow_pickle))
    return snapshot, CheckpointOrigin(name=text.partition("@")[0], revision=snapshot.name)


def _folder(
    given: Path, origin: CheckpointOrigin, work_folder: Path, how: OpenOptions, steps: StepTimer
) -> SentenceTransformersFolder:
    if how.task is Task.RERANK:
        return cross_encoder.folder_of(_ready(given, work_folder / "whole", how), origin)
    if not how.pooling and cross_encoder.is_cross_encoder(given):
        raise UsageError(f"{given} is a cross-encoder: it scores pairs and has no vector per text. Add --task rerank")
    if adapter.is_adapter(given):
        with steps.step("merge the adapter"):
            folder, merge = _merged(given, work_folder, how)
        return SentenceTransformersFolder.open(folder, replace(origin, merge=merge))
    if how.base:
        raise UsageError(f"{given} is not a PEFT adapter, so --base does not apply: leave it out")
    return SentenceTransformersFolder.open(_whole(given, work_folder / "whole", how), origin, how.trust_remote_code)


def _merged(given: Path, work_folder: Path, how: OpenOptions) -> tuple[Path, AdapterMerge]:
    if how.trust_remote_code:
        raise UsageError(
            f"{given} is an adapter, and adapters are not merged into a base with its own code: merge it yourself first"
        )
    if (given / "modules.json").is_file():
        plain_transformers.refuse_unused(given, how.pooling, how.normalize)
    base = _local(how.base or adapter.base_of(given), how)[0]
    return adapter.merge(
        _ready(given, work_folder / "adapter", how), _whole(base, work_folder / "base", how), work_folder
    )


def _whole(given: Path, target: Path, how: OpenOptions) -> Path:
    """Return a folder with a pooling: its own, or the one that the options request."""
    ready = _ready(given, target, how)
    if not how.pooling or (ready / "modules.json").is_file():
        plain_transformers.refuse_unused(ready, how.pooling, how.normalize)
        return ready
    if ready == given:
        plain_transformers.symlink_tree(given, target)
    plain_transformers.pool(target, how.pooling, how.normalize)
    return target


def _ready(given: Path, target: Path, how: OpenOptions) -> Path:
    """Return a folder with our own copies of the trusted files. They are copied first and hashed afterwards."""
    if not how.vouches or not given.is_dir():
        return given
    plain_transformers.symlink_tree(given, target)
    for path in target.rglob("*.py"):
        source = path.resolve()
        path.unlink()
        shutil.copyfile(source, path)
    trust.convert_pickles(target, how.allow_pickle)
    return target


def _named(message: str, work_folder: Path, given: Path) -> str:
    for part in ("whole", "adapter", "merged"):
        message = message.replace(str(work_folder / part), str(given))
    return message.replace(str(work_folder / "base"), "the base")
