"""Sealed folder: its manifest has the hash of every file, and a digest of the manifest itself.

Bundles and search indexes are sealed folders. Only regular files inside the folder count: links, named pipes and
devices are never opened, whatever their names.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import msgspec

from embedship.errors import UnsafeError, UsageError

# A record with the fields `format` and `digest`. The digest is computed over the record with an empty digest.
Manifest = TypeVar("Manifest", bound=msgspec.Struct)


class SealedFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A file in a manifest: its sha256 and its size in bytes."""

    sha256: str
    size: int

    @classmethod
    def from_path(cls, path: Path) -> SealedFile:
        """Hash a file and return its record."""
        return cls(sha256=sha256_of(path), size=path.stat().st_size)


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_digest(path: Path) -> str:
    """Return the digest of a file as people write it: `sha256:` and 64 hexadecimal digits."""
    return f"sha256:{sha256_of(path)}"


def require_digest(text: str) -> str:
    """Return the text if it is a digest, `sha256:` and 64 hexadecimal digits. Raises UsageError."""
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", text):
        raise UsageError(
            f"{text} is not a digest: give sha256: and 64 hexadecimal digits, as `embedship push` prints them"
        )
    return text


def creation_time() -> str:
    """Return the time of writing a manifest, ISO 8601 in UTC.

    SOURCE_DATE_EPOCH, seconds since 1970, replaces the clock, so that a build can be repeated byte for byte
    (reproducible-builds.org). Raises UsageError if it is not such a number.
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    try:
        created = datetime.now(UTC) if epoch is None else datetime.fromtimestamp(int(epoch), UTC)
    except (ValueError, OverflowError, OSError):
        raise UsageError(f"SOURCE_DATE_EPOCH is {epoch!r}; it must be a number of seconds since 1970") from None
    return created.isoformat(timespec="seconds")


def seal(manifest: Manifest) -> Manifest:
    """Return the manifest with its digest. The digest shows later whether the manifest was changed or cut."""
    bare = msgspec.structs.replace(manifest, digest="")
    digest = hashlib.sha256(msgspec.json.encode(bare, order="deterministic")).hexdigest()
    return msgspec.structs.replace(bare, digest=digest)


def write(path: Path, manifest: Manifest) -> Manifest:
    """Seal the manifest, write it as indented JSON, and return it."""
    sealed = seal(manifest)
    path.write_bytes(to_bytes(sealed))
    return sealed


def to_bytes(manifest: msgspec.Struct) -> bytes:
    """Return the bytes of a sealed manifest as `write` writes them."""
    return msgspec.json.format(msgspec.json.encode(manifest, order="deterministic"), indent=1) + b"\n"


def read(path: Path, kind: type[Manifest], version: int | tuple[int, ...], description: str) -> Manifest:
    """Read a manifest that `write` wrote in one of these format versions. `description` names the folder in errors.

    Raises UsageError if there is no manifest or it has another format. Raises UnsafeError if it was changed, or if its
    `files` name anything outside the folder. A matching digest does not exclude the latter, because an attacker who
    makes a folder can compute the digest.
    """
    versions = (version,) if isinstance(version, int) else version
    manifest = _parsed(_raw(path, description), path, kind, versions)
    if seal(manifest) != manifest:
        raise UnsafeError(f"{path} has been changed since it was written: its digest does not match")
    if outside := [name for name in getattr(manifest, "files", ()) if not is_inside(name)]:
        raise UnsafeError(f"{path} names files outside the {description}: {', '.join(map(repr, outside[:3]))}")
    return manifest


def _raw(path: Path, description: str) -> bytes:
    try:
        if path.is_symlink() or (path.exists() and not path.is_file()):  # reading a named pipe would block forever
            raise UnsafeError(f"{path} is not a regular file: {path.parent} is not the {description} that was written")
        return path.read_bytes()
    except OSError as error:
        article = "an" if description[0] in "aeiou" else "a"
        raise UsageError(
            f"{path.parent} is not {article} {description}: {path.name} cannot be read ({error.strerror})"
        ) from None


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
    """Return whether a listed name stays inside the folder, and inside every subfolder it starts with.

    It must be written as pathlib writes it: in `index//etc/passwd`, the part after `index/` is an absolute path.
    """
    path = PurePosixPath(name)
    plain = str(path) == name and "\0" not in name
    return plain and bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def problems(folder: Path, listed: Mapping[str, SealedFile], names: Iterable[str]) -> list[str]:
    """Return a message for each named file that is missing, changed, or not a regular file of this folder."""
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
    """Check each step of the path without following links: a linked folder leads outside just as a linked file does."""
    step = folder
    for part in PurePosixPath(name).parts:
        step /= part
        try:
            mode = step.lstat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return f"{name} is missing"
        if stat.S_ISLNK(mode):
            return f"{step.relative_to(folder).as_posix()} is a symbolic link"
    return None if stat.S_ISREG(mode) else f"{name} is not a regular file"


def list_files(folder: Path) -> dict[str, bool]:
    """Return everything in the folder except folders: name -> whether it is a regular file. Links are not followed."""
    return dict(sorted((path.relative_to(folder).as_posix(), regular) for path, regular in _walk(folder)))


def _walk(folder: Path) -> Iterator[tuple[Path, bool]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(Path(entry.path))
            else:
                yield Path(entry.path), entry.is_file(follow_symlinks=False)


def unlisted_files(folder: Path, known: Iterable[str]) -> list[str]:
    """Return the names of all files in the folder that are not in `known`, sorted."""
    return sorted(list_files(folder).keys() - set(known))


def differences(old: msgspec.Struct, new: msgspec.Struct, ignored: AbstractSet[str]) -> str:
    """Return the fields in which two records of one type differ, as text: "code was 'float32', is 'int8'"."""
    before, after = msgspec.to_builtins(old), msgspec.to_builtins(new)
    differ = [key for key in before if key not in ignored and before[key] != after[key]]
    return "; ".join(f"{key} was {_shown(before[key])}, is {_shown(after[key])}" for key in differ)


def _shown(value: object) -> str:
    """Return a text in quotes, anything else as JSON, because users should not read Python's None and dictionaries."""
    return repr(value) if isinstance(value, str) else msgspec.json.encode(value).decode()
