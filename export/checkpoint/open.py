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
    def trusts_files(self) -> bool:
        return bool(self.allow_pickle or self.trust_remote_code)


@contextmanager
def open_checkpoint(
    checkpoint: Path | str, options: OpenOptions, steps: StepTimer | None = None
) -> Iterator[SentenceTransformersFolder]:
    """Yield the folder to export. Temporary files are removed at the end.

    Raises UsageError or UnsafeError for a checkpoint that cannot be opened, GateError for an adapter whose merged
    model differs from the unmerged one.
    """
    user_folder, origin = _local(str(checkpoint), options)
    with atomic_folder.terminable(), tempfile.TemporaryDirectory(prefix="embedship-") as name:
        work_folder = Path(name).resolve()
        code = trust.private_modules(work_folder / "modules") if options.trust_remote_code else nullcontext()
        try:
            with code:
                yield _open_folder(user_folder, origin, work_folder, options, steps or StepTimer(Console(quiet=True)))
        except EmbedshipError as error:
            # The temporary folder is gone when the message is read, so name the folder that the user gave.
            error.args = (_name_user_folder(str(error), work_folder, user_folder),)
            raise


def _local(text: str, options: OpenOptions) -> tuple[Path, CheckpointOrigin]:
    path = Path(text)
    if path.is_dir() or not hub.is_id(text):
        return path, CheckpointOrigin(name=model_name(path))
    snapshot = hub.fetch(text, pickles=bool(options.allow_pickle))
    return snapshot, CheckpointOrigin(name=text.partition("@")[0], revision=snapshot.name)


def _open_folder(
    user_folder: Path, origin: CheckpointOrigin, work_folder: Path, options: OpenOptions, steps: StepTimer
) -> SentenceTransformersFolder:
    if options.task is Task.RERANK:
        return cross_encoder.folder_of(_with_trusted_files(user_folder, work_folder / "whole", options), origin)
    if not options.pooling and cross_encoder.is_cross_encoder(user_folder):
        raise UsageError(
            f"{user_folder} is a cross-encoder: it scores pairs and has no vector per text. Add --task rerank"
        )
    if adapter.is_adapter(user_folder):
        with steps.step("merge the adapter"):
            folder, merge = _merge_adapter(user_folder, work_folder, options)
        return SentenceTransformersFolder.open(folder, replace(origin, merge=merge))
    if options.base:
        raise UsageError(f"{user_folder} is not a PEFT adapter, so --base does not apply: leave it out")
    return SentenceTransformersFolder.open(
        _with_pooling(user_folder, work_folder / "whole", options), origin, options.trust_remote_code
    )


def _merge_adapter(user_folder: Path, work_folder: Path, options: OpenOptions) -> tuple[Path, AdapterMerge]:
    if options.trust_remote_code:
        raise UsageError(
            f"{user_folder} is an adapter, and adapters are not merged into a base with its own code: "
            "merge it yourself first"
        )
    if (user_folder / "modules.json").is_file():
        plain_transformers.refuse_unused(user_folder, options.pooling, options.normalize)
    base = _local(options.base or adapter.base_of(user_folder), options)[0]
    return adapter.merge(
        _with_trusted_files(user_folder, work_folder / "adapter", options),
        _with_pooling(base, work_folder / "base", options),
        work_folder,
    )


def _with_pooling(user_folder: Path, target: Path, options: OpenOptions) -> Path:
    """Return a folder with a pooling: its own, or the one that the options request."""
    ready = _with_trusted_files(user_folder, target, options)
    if not options.pooling or (ready / "modules.json").is_file():
        plain_transformers.refuse_unused(ready, options.pooling, options.normalize)
        return ready
    if ready == user_folder:
        plain_transformers.symlink_tree(user_folder, target)
    plain_transformers.pool(target, options.pooling, options.normalize)
    return target


def _with_trusted_files(user_folder: Path, target: Path, options: OpenOptions) -> Path:
    """Return a folder with our own copies of the trusted files. They are copied first and hashed afterwards."""
    if not options.trusts_files or not user_folder.is_dir():
        return user_folder
    plain_transformers.symlink_tree(user_folder, target)
    for path in target.rglob("*.py"):
        source = path.resolve()
        path.unlink()
        shutil.copyfile(source, path)
    trust.convert_pickles(target, options.allow_pickle)
    return target


def _name_user_folder(message: str, work_folder: Path, user_folder: Path) -> str:
    for part in ("whole", "adapter", "merged"):
        message = message.replace(str(work_folder / part), str(user_folder))
    return message.replace(str(work_folder / "base"), "the base")
