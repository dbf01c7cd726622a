"""Signatures of indexes. An index is signed in the same way as a bundle: see embedship/bundle/signing.py."""

from __future__ import annotations

from pathlib import Path

from embedship.bundle import signing
from embedship.bundle.signing import BundleSigner
from embedship.serve.index import manifest
from embedship.serve.index.manifest import IndexManifest


def sign(folder: Path, signer: BundleSigner) -> IndexManifest:
    """Write the signature into an index. Raises UnsafeError if the index differs from what was built."""
    stored = manifest.read(folder)
    signer.remove_temporary(folder)
    manifest.verify(folder, stored)
    signer.sign_folder(folder, f"index of {stored.fingerprint}")
    return stored


def check(folder: Path, key: Path) -> None:
    """Raise UnsafeError unless the private key of the public key `key` signed the index in its present state.

    Call `manifest.verify` first. Raises UsageError if `key` is not a PEM public key.
    """
    signing.check_folder(folder, key)
