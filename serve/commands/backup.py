"""Commands `backup` and `restore`: make consistent copies of folders, and restore one of them.

They are meant for data that a release cannot rebuild quickly: indexes and the state of the monitor.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
import typer

from embedship import terminal
from embedship.bundle import ManifestRecord
from embedship.commands.options import JsonOption
from embedship.errors import EmbedshipError, UnsafeError, UsageError
from embedship.files import sealed
from embedship.files.atomic_folder import umask, write_folder_atomically
from embedship.files.sealed import SealedFile

MANIFEST = "backup.json"
FORMAT = 1
_NAME = re.compile(r"\d{8}T\d{6}Z(-\d+)?")
_TRIES, _WAIT_SECONDS = 5, 1.0


class BackupManifest(ManifestRecord, frozen=True):
    """Contents of a backup: every file of every folder, with the key FOLDER/PATH."""

    format: int
    created: str
    folders: tuple[str, ...]
    files: dict[str, SealedFile]
    digest: str = ""


class BackupReport(msgspec.Struct, frozen=True):
    """Output of `--json`. `removed` contains the names of the older backups that were deleted."""

    backup: str
    folders: tuple[str, ...]
    files: int
    bytes: int
    removed: list[str]


class RestoreReport(msgspec.Struct, frozen=True):
    folder: str
    created: str
    files: int
    bytes: int


class _FileStamp(NamedTuple):
    """Inode, size in bytes and modification time in ns: they differ if a file was written or replaced."""

    inode: int
    size: int
    changed: int


def backup(
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDER...", help="Folders to copy: indexes, state folders.")
    ],
    to: Annotated[
        Path, typer.Option("--to", help="Folder for the backups. Each backup is a subfolder named by its UTC time.")
    ],
    keep: Annotated[
        int,
        typer.Option(
            "--keep", min=1, help="Number of backups to keep. Older ones are deleted after this one is complete."
        ),
    ] = 7,
    as_json: JsonOption = False,
) -> None:
    """Copy folders, each in a consistent state: if a folder changes during the copy, it is copied again.

    A backup is written completely or not at all, and contains the hash of every file. Exits 1 if a folder changes
    during every attempt.
    """
    named_folders = _names(folders, to)
    to.mkdir(parents=True, exist_ok=True)
    target = _unused_path(to)
    with write_folder_atomically(target, _require_absent, open_to_readers=False) as staging:
        for name, folder in named_folders.items():
            _copy_consistently(folder, staging / name)
        files = {name: SealedFile.from_path(staging / name) for name in sealed.list_files(staging)}
        manifest = BackupManifest(
            format=FORMAT, created=sealed.creation_time(), folders=tuple(named_folders), files=files
        )
        sealed.write(staging / MANIFEST, manifest)
    removed = _delete_old(to, target, keep)
    report = BackupReport(str(target), manifest.folders, len(files), _total_bytes(manifest), removed)
    if as_json:
        typer.echo(msgspec.json.encode(report).decode())
    else:
        _print(
            f"{report.backup} contains {', '.join(report.folders)}: {report.files:,} files, "
            f"{report.bytes / 1e6:,.1f} MB"
        )


def restore(
    copy: Annotated[Path, typer.Argument(metavar="BACKUP", help="One backup, such as backups/20260101T024100Z.")],
    out: Annotated[
        Path, typer.Option("--out", help="Where to restore the folder. The path must not exist, or be an empty folder.")
    ],
    folder: Annotated[
        str | None, typer.Option("--folder", help="Folder to restore, if the backup contains several.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Restore one folder of a backup after checking its hashes. Exits 4 if the backup is damaged."""
    manifest = sealed.read(copy / MANIFEST, BackupManifest, FORMAT, "backup")
    name = _select_folder(manifest, folder, copy)
    files = [path for path in manifest.files if path.startswith(f"{name}/")]
    if problems := sealed.problems(copy, manifest.files, files):
        raise UnsafeError(f"{copy} differs from what was backed up: {'; '.join(problems)}. Use another backup")
    with write_folder_atomically(out, _require_absent, open_to_readers=False) as staging:
        for path in files:
            target = staging / path.removeprefix(f"{name}/")
            if not target.resolve().is_relative_to(staging.resolve()):  # `sealed` also rejects such names
                raise UnsafeError(f"{copy / MANIFEST}: the path {path!r} leads outside {out}. Use another backup")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(copy / path, target)
        _copy_modes(copy / name, staging)
    total = sum(manifest.files[path].size for path in files)
    report = RestoreReport(str(out), manifest.created, len(files), total)
    if as_json:
        typer.echo(msgspec.json.encode(report).decode())
    else:
        _print(f"{out}: restored {name} of {report.created}, {report.files:,} files, {report.bytes / 1e6:,.1f} MB")


def _names(folders: list[Path], to: Path) -> dict[str, Path]:
    """Return {last path component: resolved folder}.

    Raises UsageError if a path is not a folder, if two folders have the same name, or if `to` is inside a folder.
    """
    folders_by_name = {folder.resolve().name: folder.resolve() for folder in folders}
    if len(folders_by_name) < len(folders):
        raise UsageError("two folders have the same name: back them up separately, with different --to folders")
    for folder in folders_by_name.values():
        if not folder.is_dir():
            raise UsageError(f"{folder} is not a folder: give the folders to copy")
        if to.resolve().is_relative_to(folder):
            raise UsageError(f"--to {to} is inside {folder}: a folder cannot be copied into itself")
    return folders_by_name


def _require_absent(target: Path) -> None:
    if not target.is_dir() or any(target.iterdir()):
        raise UsageError(f"{target} already exists: remove it, or give another path")


def _unused_path(to: Path) -> Path:
    """Return a path that does not exist yet. Its name is the current time in seconds."""
    timestamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    names = (timestamp if n == 0 else f"{timestamp}-{n}" for n in range(1_000))
    return next(to / name for name in names if not (to / name).exists())


def _copy_consistently(folder: Path, target: Path) -> None:
    """Copy a folder, and copy it again if it changed meanwhile. Raises EmbedshipError after _TRIES attempts."""
    for _ in range(_TRIES):
        try:
            if _copy_once(folder, target):
                return
        except FileNotFoundError:
            pass  # a file was replaced during the copy
        shutil.rmtree(target, ignore_errors=True)
        time.sleep(_WAIT_SECONDS)
    raise EmbedshipError(
        f"{folder} changed while it was copied, in each of {_TRIES} attempts: back it up when fewer changes are made"
    )


def _copy_once(folder: Path, target: Path) -> bool:
    """Copy a folder, and return whether it stayed unchanged during the copy."""
    before = _file_stamps(folder)
    target.mkdir()
    for name in before:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, target / name)
    _copy_modes(folder, target)
    return _file_stamps(folder) == before


def _copy_modes(source: Path, target: Path) -> None:
    """Give each copied file and folder at most the permissions of its source: a state folder is private to its owner.

    Only the read, write and execute bits are copied, minus the umask. The owner can always read and write the copy.
    """
    mask = umask()
    for path in (*target.rglob("*"), target):
        mode = (source / path.relative_to(target)).stat().st_mode & 0o777 & ~mask
        path.chmod(mode | (0o700 if path.is_dir() else 0o600))


def _file_stamps(folder: Path) -> dict[str, _FileStamp]:
    """Return a stamp per regular file. Links, pipes, hidden names (files being written) and lost+found are ignored."""
    stamps = {}
    for parent, folders, names in os.walk(folder, onerror=_raise):
        folders[:] = [each for each in folders if not each.startswith(".") and each != "lost+found"]
        for path in (Path(parent, name) for name in names if not name.startswith(".")):
            status = path.lstat()
            if stat.S_ISREG(status.st_mode):
                stamp = _FileStamp(status.st_ino, status.st_size, status.st_mtime_ns)
                stamps[path.relative_to(folder).as_posix()] = stamp
    return stamps


def _raise(error: OSError) -> None:
    """Raise the error: os.walk would silently treat an unreadable folder as empty."""
    raise error


def _delete_old(to: Path, new: Path, keep: int) -> list[str]:
    """Delete the oldest backups until `keep` are left, and return their names.

    `new` is never deleted, even if older backups have later names because the clock was wrong. Folders and files that
    are not backups of this command are kept.
    """
    backups = [path for path in to.iterdir() if _NAME.fullmatch(path.name) and (path / MANIFEST).is_file()]
    others = sorted((path for path in backups if path.name != new.name), key=_age, reverse=True)
    old = others[keep - 1 :][::-1]
    for path in old:
        shutil.rmtree(path)
    return [path.name for path in old]


def _age(backup: Path) -> tuple[str, int]:
    """Return the sort key of a backup: its time in seconds, and its number within that second."""
    timestamp, _, number = backup.name.partition("-")
    return timestamp, int(number or 0)


def _select_folder(manifest: BackupManifest, folder: str | None, copy: Path) -> str:
    known = ", ".join(manifest.folders)
    if not manifest.folders:
        raise UnsafeError(f"{copy / MANIFEST} lists no folder: use another backup")
    if folder is None and len(manifest.folders) > 1:
        raise UsageError(f"{copy} contains {known}: choose one with --folder")
    name = folder or manifest.folders[0]
    if name not in manifest.folders:
        raise UsageError(f"{copy} does not contain {name!r}. It contains {known}")
    return name


def _total_bytes(manifest: BackupManifest) -> int:
    return sum(file.size for file in manifest.files.values())


def _print(sentence: str) -> None:
    terminal.output().print(sentence, soft_wrap=True)
