"""Signatures over a bundle: OpenSSF model signing with an elliptic-curve key pair, offline.

The signature is a file of the standard's name, `model.sig`, in the bundle. It covers every other file, bundle.json
too, so whoever holds the public key knows that the bundle is the one that was signed. The standard's own tool,
`model_signing verify key`, checks it as well.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from pathlib import Path
from typing import Any, Self

from embedship.bundle.bundle import Bundle
from embedship.bundle.manifest import SIGNATURE
from embedship.errors import MissingExtra, UnsafeError, UsageError

PASSWORD = "EMBEDSHIP_KEY_PASSWORD"

try:
    import model_signing
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec
except ImportError:
    raise MissingExtra("model-signing", "sign") from None

# What the standard allows: NIST P-256, P-384 and P-521.
_CURVES = {"secp256r1", "secp384r1", "secp521r1"}
_CURE = "make a pair with `openssl ecparam -name prime256v1 -genkey -noout` and `openssl ec -pubout`"


class BundleSigner:
    """Holds a private key that has been opened already, so that a wrong one is known before hours of work."""

    def __init__(self, key: Path, password: bytes | None) -> None:
        self._key, self._password = key, password

    @classmethod
    def open(cls, key: Path) -> Self:
        """The PEM private key of an elliptic curve; the password of an encrypted one is in EMBEDSHIP_KEY_PASSWORD.

        Raises UsageError for what is no such key.
        """
        password = os.environ[PASSWORD].encode() if PASSWORD in os.environ else None
        try:
            opened = serialization.load_pem_private_key(_read(key), password)
        except (ValueError, TypeError) as error:
            why = f"{str(error).split('.')[0]}; the password of an encrypted key is read from {PASSWORD}"
            raise UsageError(f"{key} cannot be opened as a private key: {why}; {_CURE}") from None
        _require_curve(key, opened, ec.EllipticCurvePrivateKey)
        return cls(key, password)

    def sign(self, bundle: Bundle) -> None:
        """Write the signature of a bundle into it. Raises UnsafeError if the bundle is not what was exported."""
        half = bundle.path(f".{SIGNATURE}.half")
        half.unlink(missing_ok=True)  # of a run that was killed
        bundle.verify()
        config = model_signing.signing.Config()  # type: ignore[no-untyped-call]
        config.set_hashing_config(_BundleHashing(bundle.manifest.source.name))
        # The library hands the password on as it comes, and what opens the key wants bytes.
        config.use_elliptic_key_signer(private_key=self._key, password=self._password)  # type: ignore[arg-type]
        try:
            config.sign(bundle.folder, half)
            half.replace(bundle.path(SIGNATURE))
        finally:
            half.unlink(missing_ok=True)


def check(bundle: Bundle, key: Path) -> None:
    """Raise UnsafeError unless the bundle carries a signature of its present files by the private half of `key`.

    `key` is a PEM public key; UsageError if it is not. Call `bundle.verify()` first: it opens nothing but plain files.
    """
    _require_public(key)
    path = bundle.path(SIGNATURE)
    if not path.is_file() or path.is_symlink():
        raise UnsafeError(
            f"{bundle.folder} has no signature ({SIGNATURE}): get the signed bundle, or sign it with "
            "`embedship sign`, or verify without --key what you trust anyway"
        )
    config = model_signing.verifying.Config()  # type: ignore[no-untyped-call]
    config.set_hashing_config(_BundleHashing())
    try:
        with contextlib.redirect_stdout(sys.stderr):  # the library prints to stdout, which is ours
            config.use_elliptic_key_verifier(public_key=key).verify(bundle.folder, path)
    except Exception as error:
        # Whatever a forged file makes the library stumble over: what is not proved is not signed.
        said = re.sub(r"[\[\]\\'\"]", "", str(error)).partition(": Expected")[
            0
        ]  # a list of digests, as Python prints it
        why = said.strip() or type(error).__name__
        raise UnsafeError(f"{path} does not sign these files with the private half of {key}: {why}") from None


class _BundleHashing(model_signing.hashing.Config):
    """Every file but the signature itself; the default would leave out what looks like git's."""

    def __init__(self, name: str = "") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._name = name
        self.set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False)

    def hash(self, *arguments: Any, **options: Any) -> Any:
        """The statement would name the model by its folder, and that has a passing name during an export."""
        manifest = super().hash(*arguments, **options)
        manifest._name = self._name
        return manifest


def _require_public(key: Path) -> None:
    try:
        opened = serialization.load_pem_public_key(_read(key))
    except ValueError as error:
        raise UsageError(f"{key} is no public key in PEM ({str(error).split('.')[0]}): {_CURE}") from None
    _require_curve(key, opened, ec.EllipticCurvePublicKey)


def _require_curve(
    path: Path, key: object, kind: type[ec.EllipticCurvePrivateKey] | type[ec.EllipticCurvePublicKey]
) -> None:
    if not isinstance(key, kind) or key.curve.name not in _CURVES:
        curves = ", ".join(sorted(_CURVES))
        raise UsageError(f"{path} is no key of a curve that model signing knows ({curves}): {_CURE}")


def _read(key: Path) -> bytes:
    try:
        return key.read_bytes()
    except OSError as error:
        raise UsageError(f"the key {key} cannot be read: {error.strerror}") from None
