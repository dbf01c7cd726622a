"""The verb `sign`: put a signature into a bundle that was exported without one, or sign it with another key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from embedship.bundle import SIGNATURE, Bundle
from embedship.bundle.signing import BundleSigner


def sign(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle folder.")],
    key: Annotated[
        Path,
        typer.Option("--key", help="Private key, PEM, of curve P-256, P-384 or P-521. See docs/pipelines.md."),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Sign every file of a bundle (OpenSSF model signing, offline); the signature is its file model.sig.

    The files are hashed first: exits 4, and signs nothing, when one of them is not what was exported.
    """
    signer, opened = BundleSigner.open(key), Bundle.open(bundle)
    signer.sign(opened)
    if as_json:
        answer = {"bundle": str(bundle), "fingerprint": opened.fingerprint, "signature": str(bundle / SIGNATURE)}
        typer.echo(msgspec.json.encode(answer).decode())
    else:
        files = len(opened.manifest.files) + 1
        Console(highlight=False).print(f"{bundle / SIGNATURE} signs {files} files", soft_wrap=True)
