"""Command `sign`: adds a signature to a bundle that was exported without one, or signs it with another key."""

from __future__ import annotations

import msgspec
import typer

from embedship import terminal
from embedship.bundle import SIGNATURE, Bundle
from embedship.bundle.signing import BundleSigner
from embedship.commands.options import BundleArgument, JsonOption, PrivateKeyOption


def sign(
    bundle: BundleArgument,
    key: PrivateKeyOption,
    as_json: JsonOption = False,
) -> None:
    """Sign every file of a bundle (OpenSSF model signing, offline). The signature is the file model.sig in the bundle.

    The files are hashed first. Exits 4 without signing if one of them differs from what was exported.
    """
    signer, opened = BundleSigner.open(key), Bundle.open(bundle)
    signer.sign(opened)
    if as_json:
        answer = {"bundle": str(bundle), "fingerprint": opened.fingerprint, "signature": str(bundle / SIGNATURE)}
        typer.echo(msgspec.json.encode(answer).decode())
    else:
        files = len(opened.manifest.files) + 1
        terminal.output().print(f"{bundle / SIGNATURE} signs {files} files", soft_wrap=True)
