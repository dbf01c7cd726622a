"""Pull: fetches a bundle from a source into a folder, completely or not at all. A killed pull can be continued."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Protocol

import msgspec

from embedship.bundle import MANIFEST, SIGNATURE, SUBSET, Bundle, BundleManifest, BundleSubset
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
_LONGEST_NAME = 255  # bytes of each part of a path, the limit of file systems
_GIB = 1 << 30


class PullOptions(msgspec.Struct, frozen=True):
    """What to accept, and how to fetch it."""

    digest: str | None = None  # sha256:... that bundle.json must have
    force: bool = False  # replace another bundle at the target
    variant: str | None = None  # fetch the files of this variant only; None: of all
    key: Path | None = None  # public key of the signature that the bundle must have
    most_bytes: int = 100 * _GIB
    retry: RetryPolicy = RetryPolicy()


class PullReport(msgspec.Struct, frozen=True):
    """Result of a pull. `fetched_bytes` is how much this call transferred: 0 if the bundle was there already."""

    out: str
    source: str
    digest: str
    fingerprint: str
    files: int
    bytes: int
    fetched_bytes: int


class TransferMeter(Protocol):
    """Receives the progress of a transfer."""

    def begin(self, total: int) -> None:
        """Set the number of bytes of the whole bundle."""

    def advance(self, count: int, fetched: bool) -> None:
        """Add `count` bytes on the disk, fetched now or by an earlier call. It is negative if bytes were discarded."""


class _ByteCounter:
    """Counts the bytes fetched in this call, and passes all progress on to a meter."""

    def __init__(self, meter: TransferMeter) -> None:
        self.meter = meter
        self.fetched = 0

    def advance(self, count: int, fetched: bool) -> None:
        self.fetched += count if fetched else 0
        self.meter.advance(count, fetched)


class _AlreadyPresent(EmbedshipError):
    """The target already has the same bundle.json. Caught inside this module."""


def pull(source: BundleSource, out: Path, options: PullOptions, meter: TransferMeter) -> PullReport:
    """Fetch a bundle to `out`, with every file verified against its bundle.json.

    If the same bundle is already at `out`, it is verified and stays. If its digest was given, no request is sent to the
    source. Raises MismatchError if bundle.json does not have the digest, UnsafeError for wrong files or names,
    UsageError if `out` is something else, TransferError if the source fails.
    """
    if options.digest and _digest_at(out) == options.digest and (present := _accept_present(source, out, options)):
        return present
    raw = download.small(source, MANIFEST, _LARGEST_MANIFEST, options.retry)
    digest = digest_of(raw)
    if options.digest and digest != options.digest:
        raise MismatchError(f"{source.pinned} has another bundle: its {MANIFEST} has {digest}, not {options.digest}")
    if _digest_at(out) == digest and (present := _accept_present(source, out, options)):
        return present
    counter = _ByteCounter(meter)
    try:
        with resumable_folder(out, lambda target: _require_replaceable(target, raw, options)) as incoming:
            _fill(source, raw, incoming, options, counter)
    except _AlreadyPresent:  # another process has pulled it in the meantime
        if present := _accept_present(source, out, options):
            return present
        raise UnsafeError(f"{out} was damaged right after it was written: check its disk") from None
    return _report(source, Bundle.open(out), counter.fetched)


def _accept_present(source: BundleSource, out: Path, options: PullOptions) -> PullReport | None:
    """Verify the bundle at `out`. With --force, return None if it is wrong and must be fetched again.

    A complete bundle has every variant. Raises UsageError if the bundle lacks a requested variant.
    """
    try:
        bundle = Bundle.open(out)
        if bundle.only not in (None, options.variant):
            if options.force:
                return None
            raise UsageError(f"{out} has only the variant {bundle.only}: give --force to replace it, or another --out")
        if options.variant:
            bundle.variant(options.variant)
        bundle.verify()
        _require_signed(source, bundle, options)
    except UnsafeError as error:
        if options.force:
            return None
        raise UnsafeError(f"{error}; or give --force to fetch it again") from None
    return _report(source, bundle, 0)


def _report(source: BundleSource, bundle: Bundle, fetched: int) -> PullReport:
    files = bundle.files
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


def _require_replaceable(target: Path, raw: bytes, options: PullOptions) -> None:
    """Raise UsageError unless the target may be replaced because of --force.

    Raises _AlreadyPresent if the target is the same bundle and can stay: without --force always, with --force if it is
    not damaged, because another process may have repaired it in the meantime.
    """
    present, digest = _digest_at(target), digest_of(raw)
    if present == digest and not (options.force and _damaged(target, options)):
        raise _AlreadyPresent
    if present is None and not (options.force and _has_only_listed_files(target, raw)):
        raise UsageError(f"{target} exists and is not a bundle: give another --out")
    if not options.force:
        raise UsageError(f"{target} is another bundle ({present}): give --force to replace it, or another --out")


def _damaged(target: Path, options: PullOptions) -> bool:
    """Return whether the bundle at `target` is wrong, or lacks the requested variants."""
    try:
        bundle = Bundle.open(target)
        if bundle.only not in (None, options.variant):
            return True
        bundle.verify()
        _verify_signature(bundle, options)
    except UnsafeError:
        return True
    return False


def _has_only_listed_files(target: Path, raw: bytes) -> bool:
    """Return whether the target is a folder with no other files than those of the bundle with this manifest."""
    try:
        listed = msgspec.json.decode(raw, type=BundleManifest).files
    except msgspec.DecodeError:
        return False
    return target.is_dir() and not sealed.unlisted_files(target, {MANIFEST, SIGNATURE, SUBSET, *listed})


def _fill(
    source: BundleSource, raw: bytes, incoming: PartialDownload, options: PullOptions, counter: _ByteCounter
) -> None:
    """Fetch the bundle into `incoming.files`, and verify it."""
    (incoming.files / MANIFEST).write_bytes(raw)
    (incoming.files / SUBSET).unlink(missing_ok=True)  # an earlier call may have fetched another variant
    bundle = Bundle.open(incoming.files)
    if options.variant:
        BundleSubset(bundle.variant(options.variant).name).write(incoming.files)
        bundle = Bundle.open(incoming.files)
    listed = bundle.files
    check_size_and_names(source, listed, options.most_bytes)
    _sweep(incoming, listed)
    counter.meter.begin(sum(file.size for file in listed.values()))
    missing = _missing(incoming, listed, counter)
    _require_disk_space(incoming, missing)
    downloader = Downloader(source, incoming.parts, options.retry, counter.advance)
    for name, file in missing.items():
        downloader.file(name, file, incoming.files / name)
    _add_signature(source, bundle, options)
    bundle.verify()  # verify what is on the disk, because that is what will be served
    _verify_signature(bundle, options)


def _add_signature(source: BundleSource, bundle: Bundle, options: PullOptions) -> None:
    """Write the source's signature into the bundle, if it has one."""
    signature = download.optional(source, SIGNATURE, _LARGEST_SIGNATURE, options.retry)
    if signature is not None:
        atomic_file.write(bundle.path(SIGNATURE), signature)


def _require_signed(source: BundleSource, bundle: Bundle, options: PullOptions) -> None:
    """Raise UnsafeError unless the signature is right: that in the bundle, or else that at the source.

    The bundle may have been signed at the source after it was pulled. A wrong signature of the source is not kept.
    """
    try:
        _verify_signature(bundle, options)
    except UnsafeError:
        path = bundle.path(SIGNATURE)
        before = path.read_bytes() if path.is_file() else None
        _add_signature(source, bundle, options)
        try:
            _verify_signature(bundle, options)
        except UnsafeError:
            path.unlink(missing_ok=True) if before is None else atomic_file.write(path, before)
            raise


def _verify_signature(bundle: Bundle, options: PullOptions) -> None:
    if options.key:
        from embedship.bundle import signing

        signing.check(bundle, options.key)


def check_size_and_names(source: BundleSource, listed: Mapping[str, SealedFile], most_bytes: int) -> None:
    """Raise UnsafeError for names that a file system could read differently, and for too many files or bytes."""
    invalid = [name for name in listed if not _is_plain(name)]
    invalid += [name for name in listed if any(str(parent) in listed for parent in PurePosixPath(name).parents)]
    if invalid:
        names = ", ".join(map(repr, invalid[:3]))
        raise UnsafeError(f"{source.pinned} lists file names that a bundle cannot have: {names}")
    if bad := [name for name, file in listed.items() if not re.fullmatch("[0-9a-f]{64}", file.sha256) or file.size < 0]:
        raise UnsafeError(f"{source.pinned} lists an invalid sha256 or size for {bad[0]!r}")
    if len(listed) > _MOST_FILES:
        raise UnsafeError(f"{source.pinned} lists {len(listed)} files; the limit is {_MOST_FILES}")
    if (total := sum(file.size for file in listed.values())) > most_bytes:
        raise UnsafeError(
            f"{source.pinned} has {total} bytes, more than the limit of {most_bytes}: give --max-bytes if that is right"
        )


def _is_plain(name: str) -> bool:
    path = PurePosixPath(name)
    short = all(len(part.encode(errors="surrogatepass")) <= _LONGEST_NAME for part in path.parts)
    reserved = name in {MANIFEST, SIGNATURE, SUBSET}
    return (
        sealed.is_inside(name)
        and str(path) == name
        and name.isprintable()
        and "\\" not in name
        and short
        and not reserved
    )


def _sweep(incoming: PartialDownload, listed: Mapping[str, SealedFile]) -> None:
    """Delete files of another bundle that an earlier call left. Only names in these folders are used, never links."""
    for name in sealed.unlisted_files(incoming.files, {MANIFEST, SUBSET, *listed}):
        (incoming.files / name).unlink()
    for folder in sorted((path for path in incoming.files.rglob("*") if path.is_dir()), reverse=True):
        with contextlib.suppress(OSError):  # not empty
            folder.rmdir()
    for name in sealed.unlisted_files(incoming.parts, {file.sha256 for file in listed.values()}):
        (incoming.parts / name).unlink()


def _missing(
    incoming: PartialDownload, listed: Mapping[str, SealedFile], counter: _ByteCounter
) -> dict[str, SealedFile]:
    """Return the files that are not complete. Files that are wrong, for example after a crash, are deleted."""
    missing = {}
    for name, file in listed.items():
        if sealed.problems(incoming.files, listed, [name]):
            missing[name] = file
            (incoming.files / name).unlink(missing_ok=True)
        else:
            counter.advance(file.size, False)
    return missing


def _require_disk_space(incoming: PartialDownload, missing: Mapping[str, SealedFile]) -> None:
    present = sum(part.stat().st_size for part in incoming.parts.iterdir())
    needed = sum(file.size for file in missing.values()) - present
    if needed > (free := shutil.disk_usage(incoming.files).free):
        raise EmbedshipError(
            f"{needed} more bytes are needed, but the disk has {free}: free some space there, or give another --out"
        )
