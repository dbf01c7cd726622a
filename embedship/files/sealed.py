"""A folder sealed by its manifest: the hash of every file, and the digest of the manifest itself.

Bundles and search indexes are both such folders. Only regular files that lie in the folder itself count: a link, a
named pipe or a device is never opened, whatever its name.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import msgspec

from embedship.errors import UnsafeError, UsageError

# A record with the fields `format` and `digest`, which is of the record with an empty digest.
Manifest = TypeVar("Manifest", bound=msgspec.Struct)


class SealedFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    sha256: str
    size: int

    @classmethod
    def of(cls, path: Path) -> SealedFile:
        return cls(sha256=sha256_of(path), size=path.stat().st_size)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def creation_time() -> str:
    """When a manifest is written, in UTC. SOURCE_DATE_EPOCH, seconds since 1970, stands in for the clock where a build
    is to be the same byte for byte (reproducible-builds.org). Raises UsageError for what is no such number."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    try:
        moment = datetime.now(UTC) if given is None else datetime.fromtimestamp(int(given), UTC)
    except (ValueError, OverflowError, OSError):
        raise UsageError(f"SOURCE_DATE_EPOCH is {given!r}; it must be a number of seconds since 1970") from None
    return moment.isoformat(timespec="seconds")


def seal(manifest: Manifest) -> Manifest:
    """The manifest with the digest of itself, so that a changed or torn one is noticed."""
    bare = msgspec.structs.replace(manifest, digest="")
    digest = hashlib.sha256(msgspec.json.encode(bare, order="deterministic")).hexdigest()
    return msgspec.structs.replace(bare, digest=digest)


def write(path: Path, manifest: Manifest) -> Manifest:
    """Seal the manifest and write it, to be read by people too."""
    sealed = seal(manifest)
    path.write_bytes(text(sealed))
    return sealed


def text(sealed: msgspec.Struct) -> bytes:
    """A sealed manifest as it lies on the disk."""
    return msgspec.json.format(msgspec.json.encode(sealed, order="deterministic"), indent=1) + b"\n"


def read(path: Path, kind: type[Manifest], version: int | tuple[int, ...], what: str) -> Manifest:
    """Read a manifest that `write` wrote, of one of these versions; `what` says in words what its folder should be.

    Raises UsageError when there is none or it has another format, UnsafeError when it is not what was written, and when
    its `files` name anything outside the folder: the digest is no proof, because whoever made the folder computes it.
    """
    versions = (version,) if isinstance(version, int) else version
    manifest = _parsed(_raw(path, what), path, kind, versions)
    if seal(manifest) != manifest:
        raise UnsafeError(f"{path} has been changed since it was written: its digest does not match")
    if outside := [name for name in getattr(manifest, "files", ()) if not is_inside(name)]:
        raise UnsafeError(f"{path} names files outside the {what}: {', '.join(map(repr, outside[:3]))}")
    return manifest


def _raw(path: Path, what: str) -> bytes:
    try:
        if path.is_symlink() or (path.exists() and not path.is_file()):  # a named pipe would be read for ever
            raise UnsafeError(f"{path} is no regular file: {path.parent} is not the {what} that was written")
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path.parent} is no {what}: {path.name} cannot be read ({error.strerror})") from None


def _parsed(raw: bytes, path: Path, kind: type[Manifest], versions: tuple[int, ...]) -> Manifest:
    try:
        head: dict[str, Any] = msgspec.json.decode(raw, type=dict)
        if head.get("format") in versions:
            return msgspec.json.decode(raw, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UnsafeError(f"{path} is damaged: {error}") from None
    known = " or ".join(map(str, versions))
    raise UsageError(f"{path} has format {head.get('format')!r}; this embedship reads format {known}: make it again")


def is_inside(name: str) -> bool:
    """Whether a listed name stays in the folder, and in every folder that its parts are taken from.

    It must be written as pathlib writes it: of `index//etc/passwd` the part after `index/` is an absolute path.
    """
    path = PurePosixPath(name)
    plain = str(path) == name and "\0" not in name
    return plain and bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def problems(folder: Path, listed: Mapping[str, SealedFile], names: Iterable[str]) -> list[str]:
    """A sentence for each of the named files that is missing, changed, or no regular file of this folder."""
    return [problem for name in names if (problem := _problem(folder, name, listed.get(name)))]


def _problem(folder: Path, name: str, listed: SealedFile | None) -> str | None:
    if not is_inside(name):
        return f"{name!r} is not the name of a file inside the folder"
    if listed is None:
        return f"{name} is not listed in the manifest"
    path = folder / name
    try:
        if (wrong := _irregular(folder, name)) is not None:
            return wrong
        if (size := path.stat().st_size) != listed.size:
            return f"{name} has {size} bytes, not {listed.size}"
        return None if sha256_of(path) == listed.sha256 else f"{name} has changed (sha256)"
    except OSError as error:
        return f"{name} cannot be read ({error.strerror})"


def _irregular(folder: Path, name: str) -> str | None:
    """Look at each step of the path without following it: a linked folder leads outside as a linked file does."""
    place = folder
    for part in PurePosixPath(name).parts:
        place /= part
        try:
            mode = place.lstat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return f"{name} is missing"
        if stat.S_ISLNK(mode):
            return f"{place.relative_to(folder).as_posix()} is a symbolic link"
    return None if stat.S_ISREG(mode) else f"{name} is no regular file"


def list_files(folder: Path) -> dict[str, bool]:
    """Everything in the folder that is no folder, links unfollowed: name -> whether it is a regular file."""
    return dict(sorted((path.relative_to(folder).as_posix(), regular) for path, regular in _walk(folder)))


def _walk(folder: Path) -> Iterator[tuple[Path, bool]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(Path(entry.path))
            else:
                yield Path(entry.path), entry.is_file(follow_symlinks=False)


def unlisted_files(folder: Path, known: Iterable[str]) -> list[str]:
    """What lies in the folder and is not known, by name."""
    return sorted(list_files(folder).keys() - set(known))


def differences(there: msgspec.Struct, here: msgspec.Struct, ignored: AbstractSet[str]) -> str:
    """The fields in which two records of one kind differ, as a user reads them: "code was 'float32', is 'int8'"."""
    old, new = msgspec.to_builtins(there), msgspec.to_builtins(here)
    differ = [key for key in old if key not in ignored and old[key] != new[key]]
    return "; ".join(f"{key} was {_shown(old[key])}, is {_shown(new[key])}" for key in differ)


def _shown(value: object) -> str:
    """A text in quotes, anything else as JSON: Python's own None and dictionaries are for nobody but its authors."""
    return repr(value) if isinstance(value, str) else msgspec.json.encode(value).decode()
