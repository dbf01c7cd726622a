"""The verbs `backup` and `restore`: folders copied whole and as they were at one moment, and brought back.

For what a release cannot make again quickly: indexes, and what the monitor remembers.
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
from rich.console import Console

from embedship.bundle import ManifestRecord
from embedship.errors import EmbedshipError, UnsafeError, UsageError
from embedship.files import sealed
from embedship.files.atomic_folder import umask, write_folder_atomically
from embedship.files.sealed import SealedFile

MANIFEST = "backup.json"
FORMAT = 1
_NAME = re.compile(r"\d{8}T\d{6}Z(-\d+)?")
_TRIES, _WAIT_SECONDS = 5, 1.0


class BackupManifest(ManifestRecord, frozen=True):
    """What a backup holds: every file of every folder, by FOLDER/PATH."""

    format: int
    created: str
    folders: tuple[str, ...]
    files: dict[str, SealedFile]
    digest: str = ""


class BackupReport(msgspec.Struct, frozen=True):
    """What `--json` prints; `removed` are the names of older copies that went."""

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
    """What tells a file from one that was written or put in its place since."""

    inode: int
    size: int
    changed: int


def backup(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="Indexes, state folders.")],
    to: Annotated[Path, typer.Option("--to", help="Folder that takes the copies: each in a folder of its time, UTC.")],
    keep: Annotated[
        int, typer.Option("--keep", min=1, help="Copies to keep; older ones go, once this one is whole.")
    ] = 7,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Copy folders, each as it was at one moment: one that changes meanwhile is copied again.

    A copy is there whole or not at all, and holds the hash of every file. Exits 1 where a folder does not keep still.
    """
    names = _names(folders, to)
    to.mkdir(parents=True, exist_ok=True)
    target = _free(to)
    with write_folder_atomically(target, _refuse, open_to_readers=False) as staging:
        for name, folder in names.items():
            _copied(folder, staging / name)
        files = {name: SealedFile.of(staging / name) for name in sealed.list_files(staging)}
        made = BackupManifest(format=FORMAT, created=sealed.creation_time(), folders=tuple(names), files=files)
        sealed.write(staging / MANIFEST, made)
    found = BackupReport(str(target), made.folders, len(files), _bytes(made), _pruned(to, target, keep))
    if as_json:
        typer.echo(msgspec.json.encode(found).decode())
    else:
        _say(f"{found.backup} holds {', '.join(found.folders)}: {found.files:,} files, {found.bytes / 1e6:,.1f} MB")


def restore(
    copy: Annotated[Path, typer.Argument(metavar="BACKUP", help="One copy, such as backups/20260101T024100Z.")],
    out: Annotated[Path, typer.Option("--out", help="Where the folder goes; it must not be there, or be empty.")],
    folder: Annotated[str | None, typer.Option("--folder", help="Which one, where the copy holds several.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Bring one folder of a backup back, after its hashes were checked. Exits 4 where the copy is damaged."""
    found = sealed.read(copy / MANIFEST, BackupManifest, FORMAT, "backup")
    name = _chosen(found, folder, copy)
    files = [path for path in found.files if path.startswith(f"{name}/")]
    if problems := sealed.problems(copy, found.files, files):
        raise UnsafeError(f"{copy} is not what was copied: {'; '.join(problems)}: take another copy")
    with write_folder_atomically(out, _refuse, open_to_readers=False) as staging:
        for path in files:
            target = staging / path.removeprefix(f"{name}/")
            if not target.resolve().is_relative_to(staging.resolve()):  # `sealed` refuses such names already
                raise UnsafeError(f"{copy / MANIFEST} names {path!r}, which leads out of {out}: take another copy")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(copy / path, target)
        _keep_modes(copy / name, staging)
    report = RestoreReport(str(out), found.created, len(files), sum(found.files[path].size for path in files))
    if as_json:
        typer.echo(msgspec.json.encode(report).decode())
    else:
        _say(f"{out} is {name} as it was at {report.created}: {report.files:,} files, {report.bytes / 1e6:,.1f} MB")


def _names(folders: list[Path], to: Path) -> dict[str, Path]:
    """Each folder by its last name. Raises UsageError for what is no folder, for two of one name, and for a circle."""
    named = {folder.resolve().name: folder.resolve() for folder in folders}
    if len(named) < len(folders):
        raise UsageError("two folders have one name: back them up by themselves, each to a folder of its own")
    for folder in named.values():
        if not folder.is_dir():
            raise UsageError(f"{folder} is no folder: name those to copy")
        if to.resolve().is_relative_to(folder):
            raise UsageError(f"--to {to} lies in {folder}: a folder is not copied into itself")
    return named


def _refuse(target: Path) -> None:
    if not target.is_dir() or any(target.iterdir()):
        raise UsageError(f"{target} is there already: remove it, or name another place")


def _free(to: Path) -> Path:
    """A name of this second that nobody has."""
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    names = (moment if n == 0 else f"{moment}-{n}" for n in range(1_000))
    return next(to / name for name in names if not (to / name).exists())


def _copied(folder: Path, target: Path) -> None:
    """Copy until the folder was the same before and after."""
    for _ in range(_TRIES):
        try:
            if _copied_still(folder, target):
                return
        except FileNotFoundError:
            pass  # something was replaced meanwhile
        shutil.rmtree(target, ignore_errors=True)
        time.sleep(_WAIT_SECONDS)
    raise EmbedshipError(f"{folder} changed while it was copied, {_TRIES} times: back it up when it is quieter")


def _copied_still(folder: Path, target: Path) -> bool:
    """Copy it, and say whether it kept still meanwhile."""
    before = _seen(folder)
    target.mkdir()
    for name in before:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, target / name)
    _keep_modes(folder, target)
    return _seen(folder) == before


def _keep_modes(source: Path, target: Path) -> None:
    """Give each copied file and folder at most its source's mode: a state folder is for the eyes of its owner.

    Read, write and execute bits only, less what the umask takes away; the owner can always read and write them.
    """
    mask = umask()
    for path in (*target.rglob("*"), target):
        mode = (source / path.relative_to(target)).stat().st_mode & 0o777 & ~mask
        path.chmod(mode | (0o700 if path.is_dir() else 0o600))


def _seen(folder: Path) -> dict[str, _FileStamp]:
    """Every regular file; links, pipes, what is being written under a hidden name and lost+found are left out."""
    found = {}
    for place, folders, names in os.walk(folder, onerror=_raise):
        folders[:] = [each for each in folders if not each.startswith(".") and each != "lost+found"]
        for path in (Path(place, name) for name in names if not name.startswith(".")):
            status = path.lstat()
            if stat.S_ISREG(status.st_mode):
                seen = _FileStamp(status.st_ino, status.st_size, status.st_mtime_ns)
                found[path.relative_to(folder).as_posix()] = seen
    return found


def _raise(error: OSError) -> None:
    """A folder that cannot be read is no empty one."""
    raise error


def _pruned(to: Path, made: Path, keep: int) -> list[str]:
    """Remove the oldest copies but for `made`, which is older than the others by its name if the clock was ahead once.

    Nothing that is no copy of ours is touched.
    """
    copies = [path for path in to.iterdir() if _NAME.fullmatch(path.name) and (path / MANIFEST).is_file()]
    others = sorted((path for path in copies if path.name != made.name), key=_age, reverse=True)
    old = others[keep - 1 :][::-1]
    for path in old:
        shutil.rmtree(path)
    return [path.name for path in old]


def _age(copy: Path) -> tuple[str, int]:
    """Its second, and its number in that second."""
    moment, _, number = copy.name.partition("-")
    return moment, int(number or 0)


def _chosen(found: BackupManifest, folder: str | None, copy: Path) -> str:
    known = ", ".join(found.folders)
    if not found.folders:
        raise UnsafeError(f"{copy / MANIFEST} lists no folder: take another copy")
    if folder is None and len(found.folders) > 1:
        raise UsageError(f"{copy} holds {known}: say which one with --folder")
    name = folder or found.folders[0]
    if name not in found.folders:
        raise UsageError(f"{copy} holds no {name!r}; it holds {known}")
    return name


def _bytes(found: BackupManifest) -> int:
    return sum(file.size for file in found.files.values())


def _say(sentence: str) -> None:
    Console(highlight=False, soft_wrap=True).print(sentence, markup=False)
