"""A bundle from a source into a folder, whole or not at all; killed at any moment, the same call goes on."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Protocol

import msgspec

from embedship.bundle import MANIFEST, SIGNATURE, Bundle, BundleManifest
from embedship.errors import EmbedshipError, MismatchError, UnsafeError, UsageError
from embedship.files import atomic_file, sealed
from embedship.files.atomic_folder import PartialDownload, resumable_folder
from embedship.files.sealed import SealedFile
from embedship.transfer import BundleSource, download
from embedship.transfer.download import Downloader
from embedship.transfer.registry import digest_of
from embedship.transfer.retry import RetryPolicy

_LARGEST_MANIFEST = 16 << 20  # bytes
_LARGEST_SIGNATURE = 16 << 20
_MOST_FILES = 10_000
_LONGEST_NAME = 255  # bytes of a part, as file systems allow
_GIB = 1 << 30


class PullOptions(msgspec.Struct, frozen=True):
    digest: str | None = None  # sha256:... of bundle.json
    force: bool = False  # replace another bundle that lies at the target
    key: Path | None = None  # public key of the signature that it must carry
    most_bytes: int = 100 * _GIB
    patience: RetryPolicy = RetryPolicy()


class PullReport(msgspec.Struct, frozen=True):
    """What was done. `fetched_bytes` is what came over the wire in this call; 0 if all was there already."""

    out: str
    source: str
    digest: str
    fingerprint: str
    files: int
    bytes: int
    fetched_bytes: int


class TransferMeter(Protocol):
    def begin(self, total: int) -> None:
        """So many bytes have to lie there in the end."""

    def saw(self, count: int, fetched: bool) -> None:
        """So many more lie there; negative if they had to be thrown away."""


class _ByteCounter:
    """Counts what came over the wire, and tells the meter."""

    def __init__(self, meter: TransferMeter) -> None:
        self.meter = meter
        self.fetched = 0

    def saw(self, count: int, fetched: bool) -> None:
        self.fetched += count if fetched else 0
        self.meter.saw(count, fetched)


class _AlreadyPresent(EmbedshipError):
    """The target holds this very bundle.json. Nobody sees it."""


def require_digest(text: str) -> str:
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", text):
        raise UsageError(f"{text} is no digest: give sha256: and 64 hexadecimal digits, as `embedship push` prints it")
    return text


def pull(source: BundleSource, out: Path, wishes: PullOptions, meter: TransferMeter) -> PullReport:
    """Fetch a bundle that lies at `out` afterwards, every file verified against its bundle.json.

    If that bundle is there already, it is verified and left; with a digest given, the source is not even asked.
    Raises MismatchError for another bundle.json than the one pinned, UnsafeError for files or names that are not what
    a bundle has, UsageError if something else lies at `out`, TransferError if the source does not give it.
    """
    if wishes.digest and _digest_at(out) == wishes.digest and (found := _found(source, out, wishes)):
        return found
    raw = download.small(source, MANIFEST, _LARGEST_MANIFEST, wishes.patience)
    digest = digest_of(raw)
    if wishes.digest and digest != wishes.digest:
        raise MismatchError(f"{source.pinned} holds another bundle: its {MANIFEST} has {digest}, not {wishes.digest}")
    if _digest_at(out) == digest and (found := _found(source, out, wishes)):
        return found
    tally = _ByteCounter(meter)
    try:
        with resumable_folder(out, lambda target: _require_replaceable(target, raw, wishes)) as incoming:
            _fill(source, raw, incoming, wishes, tally)
    except _AlreadyPresent:  # another process has pulled it meanwhile
        if found := _found(source, out, wishes):
            return found
        raise UnsafeError(f"{out} was damaged as soon as it lay there: look at its disk") from None
    return _pulled(source, Bundle.open(out), tally.fetched)


def _found(source: BundleSource, out: Path, wishes: PullOptions) -> PullReport | None:
    """The bundle that lies there, if it is right; None if it is not and shall be fetched again."""
    bundle = Bundle.open(out)
    try:
        bundle.verify()
        _require_signed(source, bundle, wishes)
    except UnsafeError as error:
        if wishes.force:
            return None
        raise UnsafeError(f"{error}; or give --force to fetch it again") from None
    return _pulled(source, bundle, 0)


def _pulled(source: BundleSource, bundle: Bundle, fetched: int) -> PullReport:
    files = bundle.manifest.files
    return PullReport(
        out=str(bundle.folder),
        source=source.pinned,
        digest=digest_of(bundle.path(MANIFEST).read_bytes()),
        fingerprint=bundle.fingerprint,
        files=len(files),
        bytes=sum(file.size for file in files.values()),
        fetched_bytes=fetched,
    )


def _digest_at(out: Path) -> str | None:
    manifest = out / MANIFEST
    return digest_of(manifest.read_bytes()) if manifest.is_file() and not manifest.is_symlink() else None


def _require_replaceable(target: Path, raw: bytes, wishes: PullOptions) -> None:
    """Of this very bundle only a damaged copy is; another process may have mended it meanwhile."""
    there, digest = _digest_at(target), digest_of(raw)
    if there == digest and not (wishes.force and _damaged(target, wishes)):
        raise _AlreadyPresent
    if there is None and not (wishes.force and _remains(target, raw)):
        raise UsageError(f"{target} exists and holds no bundle: give another --out")
    if not wishes.force:
        raise UsageError(f"{target} holds another bundle ({there}): give --force to replace it, or another --out")


def _damaged(target: Path, wishes: PullOptions) -> bool:
    bundle = Bundle.open(target)
    try:
        bundle.verify()
        _verify_signature(bundle, wishes)
    except UnsafeError:
        return True
    return False


def _remains(target: Path, raw: bytes) -> bool:
    """Whether nothing lies there but files of the bundle whose manifest this is."""
    try:
        listed = msgspec.json.decode(raw, type=BundleManifest).files
    except msgspec.DecodeError:
        return False
    return target.is_dir() and not sealed.unlisted_files(target, {MANIFEST, SIGNATURE, *listed})


def _fill(
    source: BundleSource, raw: bytes, incoming: PartialDownload, wishes: PullOptions, tally: _ByteCounter
) -> None:
    """Make `incoming.files` the bundle, and verify it."""
    (incoming.files / MANIFEST).write_bytes(raw)
    bundle = Bundle.open(incoming.files)
    listed = bundle.manifest.files
    check_size_and_names(source, listed, wishes.most_bytes)
    _sweep(incoming, listed)
    tally.meter.begin(sum(file.size for file in listed.values()))
    missing = _missing(incoming, listed, tally)
    _require_room(incoming, missing)
    downloader = Downloader(source, incoming.parts, wishes.patience, tally.saw)
    for name, file in missing.items():
        downloader.file(name, file, incoming.files / name)
    _add_signature(source, bundle, wishes)
    bundle.verify()  # what lies on the disk, not what went by: that is what will be served
    _verify_signature(bundle, wishes)


def _add_signature(source: BundleSource, bundle: Bundle, wishes: PullOptions) -> None:
    """Nothing is written where the source has none."""
    signature = download.optional(source, SIGNATURE, _LARGEST_SIGNATURE, wishes.patience)
    if signature is not None:
        atomic_file.write(bundle.path(SIGNATURE), signature)


def _require_signed(source: BundleSource, bundle: Bundle, wishes: PullOptions) -> None:
    """By the signature that lies there, or by the source's own: it may have been signed since. A wrong one is not kept.

    Raises UnsafeError.
    """
    try:
        _verify_signature(bundle, wishes)
    except UnsafeError:
        path = bundle.path(SIGNATURE)
        before = path.read_bytes() if path.is_file() else None
        _add_signature(source, bundle, wishes)
        try:
            _verify_signature(bundle, wishes)
        except UnsafeError:
            path.unlink(missing_ok=True) if before is None else atomic_file.write(path, before)
            raise


def _verify_signature(bundle: Bundle, wishes: PullOptions) -> None:
    if wishes.key:
        from embedship.bundle import signing

        signing.check(bundle, wishes.key)


def check_size_and_names(source: BundleSource, listed: Mapping[str, SealedFile], most_bytes: int) -> None:
    """Raise UnsafeError for names that a file system would take otherwise, and for more than anybody expects."""
    strange = [name for name in listed if not _plain(name)]
    strange += [name for name in listed if any(str(parent) in listed for parent in PurePosixPath(name).parents)]
    if strange:
        shown = ", ".join(map(repr, strange[:3]))
        raise UnsafeError(f"{source.pinned} lists names that no bundle has: {shown}")
    if bad := [name for name, file in listed.items() if not re.fullmatch("[0-9a-f]{64}", file.sha256) or file.size < 0]:
        raise UnsafeError(f"{source.pinned} lists no sha256 or no size for {bad[0]!r}")
    if len(listed) > _MOST_FILES:
        raise UnsafeError(f"{source.pinned} lists {len(listed)} files; {_MOST_FILES} are the most")
    if (total := sum(file.size for file in listed.values())) > most_bytes:
        raise UnsafeError(
            f"{source.pinned} has {total} bytes, more than the {most_bytes} allowed: give --max-bytes if that is right"
        )


def _plain(name: str) -> bool:
    path = PurePosixPath(name)
    short = all(len(part.encode(errors="surrogatepass")) <= _LONGEST_NAME for part in path.parts)
    mine = name in {MANIFEST, SIGNATURE}
    return (
        sealed.is_inside(name) and str(path) == name and name.isprintable() and "\\" not in name and short and not mine
    )


def _sweep(incoming: PartialDownload, listed: Mapping[str, SealedFile]) -> None:
    """What an earlier call left behind of another bundle. Names are those of this folder: no link is followed."""
    for name in sealed.unlisted_files(incoming.files, {MANIFEST, *listed}):
        (incoming.files / name).unlink()
    for folder in sorted((path for path in incoming.files.rglob("*") if path.is_dir()), reverse=True):
        with contextlib.suppress(OSError):  # not empty
            folder.rmdir()
    for name in sealed.unlisted_files(incoming.parts, {file.sha256 for file in listed.values()}):
        (incoming.parts / name).unlink()


def _missing(incoming: PartialDownload, listed: Mapping[str, SealedFile], tally: _ByteCounter) -> dict[str, SealedFile]:
    """What is not there in full; what is there and wrong (a torn disk) is deleted."""
    missing = {}
    for name, file in listed.items():
        if sealed.problems(incoming.files, listed, [name]):
            missing[name] = file
            (incoming.files / name).unlink(missing_ok=True)
        else:
            tally.saw(file.size, False)
    return missing


def _require_room(incoming: PartialDownload, missing: Mapping[str, SealedFile]) -> None:
    had = sum(part.stat().st_size for part in incoming.parts.iterdir())
    needed = sum(file.size for file in missing.values()) - had
    if needed > (free := shutil.disk_usage(incoming.files).free):
        raise EmbedshipError(
            f"{needed} bytes are still to come, and the disk has {free}: make room there, or give another --out"
        )
