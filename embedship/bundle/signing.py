"""Signatures of bundles and indexes: OpenSSF model signing with an elliptic-curve key pair, offline.

The signature is the file `model.sig` in the folder, the name that the standard gives it. It covers every other file,
the manifest included, so anyone with the public key can check that the folder is the one that was signed. The
standard's own tool, `model_signing verify key`, checks it as well.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Self

from embedship.bundle.bundle import Bundle
from embedship.bundle.manifest import SIGNATURE, SUBSET
from embedship.errors import MissingExtra, UnsafeError, UsageError

PASSWORD = "EMBEDSHIP_KEY_PASSWORD"
_TEMPORARY = f".{SIGNATURE}.half"

try:
    import model_signing
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from model_signing._hashing.hashing import Digest
    from model_signing.manifest import FileManifestItem
except ImportError:
    raise MissingExtra("model-signing", "sign") from None

# The curves that the standard allows: NIST P-256, P-384 and P-521.
_CURVES = {"secp256r1", "secp384r1", "secp521r1"}
_SUGGESTION = "make a pair with `openssl ecparam -name prime256v1 -genkey -noout` and `openssl ec -pubout`"


class BundleSigner:
    """Signs folders with one private key, which is opened at once, so that a wrong key fails before hours of work."""

    def __init__(self, key: Path, password: bytes | None) -> None:
        self._key, self._password = key, password

    @classmethod
    def open(cls, key: Path) -> Self:
        """Open the PEM private key of an elliptic curve. EMBEDSHIP_KEY_PASSWORD is the password of an encrypted key.

        Raises UsageError if the file is not such a key.
        """
        password = os.environ[PASSWORD].encode() if PASSWORD in os.environ else None
        try:
            opened = serialization.load_pem_private_key(_read(key), password)
        except (ValueError, TypeError) as error:
            reason = f"{str(error).split('.')[0]}; the password of an encrypted key is read from {PASSWORD}"
            raise UsageError(f"{key} cannot be opened as a private key: {reason}; {_SUGGESTION}") from None
        _require_curve(key, opened, ec.EllipticCurvePrivateKey)
        return cls(key, password)

    def sign(self, bundle: Bundle) -> None:
        """Write the signature into the bundle. Raises UnsafeError if the bundle differs from what was exported."""
        self.remove_temporary(bundle.folder)
        bundle.require_complete("a signature")
        bundle.verify()
        self.sign_folder(bundle.folder, bundle.manifest.source.name)

    def sign_folder(self, folder: Path, name: str) -> None:
        """Write the signature of all files into a folder that was verified. The signed statement calls it `name`."""
        temporary = folder / _TEMPORARY
        config = model_signing.signing.Config()  # type: ignore[no-untyped-call]
        config.set_hashing_config(_FolderHashing(name))
        # The library passes the password on unchanged, and the function that opens the key needs bytes.
        config.use_elliptic_key_signer(private_key=self._key, password=self._password)  # type: ignore[arg-type]
        try:
            config.sign(folder, temporary)
            temporary.replace(folder / SIGNATURE)
        finally:
            self.remove_temporary(folder)

    def remove_temporary(self, folder: Path) -> None:
        """Remove what a killed run of `sign_folder` left, which would count as an added file."""
        (folder / _TEMPORARY).unlink(missing_ok=True)


def check(bundle: Bundle, key: Path) -> None:
    """Raise UnsafeError unless the private half of `key` signed the bundle's files as they are now.

    Call `bundle.verify()` first, because it opens only regular files. If the bundle was pulled with --variant, the
    other variants count with the sha256 in bundle.json, which the signature covers as well. Raises UsageError as
    `check_folder` does.
    """
    present = bundle.files
    absent = {name: file.sha256 for name, file in bundle.manifest.files.items() if name not in present}
    check_folder(bundle.folder, key, _FolderHashing(absent=absent, subset=bundle.only is not None))


def check_folder(folder: Path, key: Path, hashing: model_signing.hashing.Config | None = None) -> None:
    """Raise UnsafeError unless the private half of `key` signed the files in `folder` as they are now.

    `key` is a PEM public key. Raises UsageError if it is not one. Verify the folder's manifest first.
    """
    _require_public(key)
    path = folder / SIGNATURE
    if not path.is_file() or path.is_symlink():
        raise UnsafeError(
            f"{folder} has no signature ({SIGNATURE}): get the signed folder, sign it with `embedship sign` (an index: "
            "`embedship index sign`), or leave --key out if you trust it without a signature"
        )
    config = model_signing.verifying.Config()  # type: ignore[no-untyped-call]
    config.set_hashing_config(hashing or _FolderHashing())
    try:
        with contextlib.redirect_stdout(sys.stderr):  # the library prints to stdout, where our results go
            config.use_elliptic_key_verifier(public_key=key).verify(folder, path)
    except Exception as error:
        # A forged file can make the library fail in any way. A signature that is not proved does not count.
        message = re.sub(r"[\[\]\\'\"]", "", str(error)).partition(": Expected")[0]  # drop a printed list of digests
        reason = message.strip() or type(error).__name__
        raise UnsafeError(f"{path} is not a signature of these files by the private half of {key}: {reason}") from None


class _FolderHashing(model_signing.hashing.Config):
    """Hashes every file except the signature. The library's default would skip git's files.

    `absent`: sha256 of files that were not pulled. `subset`: the folder has the record of such a pull.
    """

    def __init__(self, name: str = "", absent: Mapping[str, str] | None = None, subset: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._name, self._absent = name, absent or {}
        self.set_ignored_paths(paths=[SIGNATURE, *([SUBSET] if subset else [])], ignore_git_paths=False)

    def hash(self, *arguments: Any, **options: Any) -> Any:
        """Return the hashes of the files, with the model's name, and with the hashes of files that were not pulled.

        The library would use the name of the folder, which is temporary during an export.
        """
        manifest = super().hash(*arguments, **options)
        manifest._name = self._name
        for name, sha256 in self._absent.items():
            item = FileManifestItem(path=PurePosixPath(name), digest=Digest("sha256", bytes.fromhex(sha256)))
            manifest._item_to_digest[item.key] = item.digest
        return manifest


def _require_public(key: Path) -> None:
    try:
        opened = serialization.load_pem_public_key(_read(key))
    except ValueError as error:
        raise UsageError(f"{key} is not a public key in PEM ({str(error).split('.')[0]}): {_SUGGESTION}") from None
    _require_curve(key, opened, ec.EllipticCurvePublicKey)


def _require_curve(
    path: Path, key: object, kind: type[ec.EllipticCurvePrivateKey] | type[ec.EllipticCurvePublicKey]
) -> None:
    if not isinstance(key, kind) or key.curve.name not in _CURVES:
        curves = ", ".join(sorted(_CURVES))
        raise UsageError(f"{path} is not a key of a curve that model signing supports ({curves}): {_SUGGESTION}")


def _read(key: Path) -> bytes:
    try:
        return key.read_bytes()
    except OSError as error:
        raise UsageError(f"the key {key} cannot be read: {error.strerror}") from None
