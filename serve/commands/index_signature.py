"""Commands `index sign` and `index verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from embedship import terminal
from embedship.bundle import SIGNATURE
from embedship.commands.options import JsonOption, PrivateKeyOption
from embedship.commands.verify import SIGNATURE_MESSAGES, SignatureState
from embedship.files import sealed
from embedship.serve.index import manifest

IndexArgument = Annotated[Path, typer.Argument(metavar="INDEX", help="Index folder, written by `embedship index`.")]


class SignReport(msgspec.Struct, frozen=True):
    """Output of `index sign --json`. `digest` is the digest of index.json."""

    index: str
    digest: str
    signature: str


class VerifyReport(msgspec.Struct, frozen=True):
    """Output of `index verify --json`. `digest` is the digest of index.json; `fingerprint` identifies the model."""

    index: str
    digest: str
    fingerprint: str
    files: int
    signature: SignatureState


def sign(
    index: IndexArgument,
    key: PrivateKeyOption,
    as_json: JsonOption = False,
) -> None:
    """Sign every file of an index (OpenSSF model signing, offline). The signature is the file model.sig in the index.

    The files are hashed first. Exits 4 without signing if one of them differs from what was built. Changes in
    INDEX.live are not signed.
    """
    from embedship.bundle.signing import BundleSigner
    from embedship.serve.index import signing

    signer = BundleSigner.open(key)
    stored = signing.sign(index, signer)
    report = SignReport(str(index), sealed.file_digest(index / manifest.MANIFEST), str(index / SIGNATURE))
    if as_json:
        typer.echo(msgspec.json.encode(report).decode())
        return
    console = terminal.output()
    console.print(f"{report.signature} signs {len(stored.files) + 1} files", soft_wrap=True)
    console.print(f"{manifest.MANIFEST} {report.digest}", soft_wrap=True)


def verify(
    index: IndexArgument,
    key: Annotated[
        Path | None,
        typer.Option("--key", help="Public key, PEM: the index must have a signature by its private half."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Hash every file of an index. With --key, also check its signature.

    Exits 4 if a file is missing, changed or added, or if the checked signature is missing or wrong.
    """
    stored = manifest.read(index)
    manifest.verify(index, stored)
    if key is not None:
        from embedship.serve.index import signing

        signing.check(index, key)
    signed = SignatureState.UNCHECKED if (index / SIGNATURE).exists() else SignatureState.NO
    state = SignatureState.VALID if key else signed
    report = VerifyReport(
        str(index), sealed.file_digest(index / manifest.MANIFEST), stored.fingerprint, len(stored.files), state
    )
    if as_json:
        typer.echo(msgspec.json.encode(report).decode())
        return
    console = terminal.output()
    console.print(f"{index}: {report.files} files are as built, for model {stored.fingerprint[:12]}", soft_wrap=True)
    console.print(f"{manifest.MANIFEST} {report.digest}", soft_wrap=True)
    console.print(SIGNATURE_MESSAGES[state])
