"""Commands `push` and `pull`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from embedship import terminal
from embedship.bundle import MANIFEST, Bundle
from embedship.commands.options import BundleArgument, JsonOption
from embedship.errors import UsageError
from embedship.files.sealed import require_digest
from embedship.transfer import oci
from embedship.transfer.address import TrustOptions, open_source
from embedship.transfer.progress import TransferProgress
from embedship.transfer.pull import PullOptions
from embedship.transfer.pull import pull as fetch
from embedship.transfer.registry import digest_of
from embedship.transfer.retry import RetryPolicy

_NETWORK, _TRUST = "Network", "Trust"
_RETRIES = typer.Option(
    help="Give up after this many failures in a row (lost connections, HTTP 5xx). Waits double in between.",
    min=1,
    max=100,
    rich_help_panel=_NETWORK,
)
_PLAIN = typer.Option(
    "--plain-http",
    help="Connect to the registry without TLS. This is the default on loopback addresses.",
    rich_help_panel=_NETWORK,
)


class PushReport(msgspec.Struct, frozen=True):
    """Result of a push. `source` is the address for `pull`, with the OCI digest. `digest` is that of bundle.json."""

    bundle: str
    source: str
    digest: str
    fingerprint: str
    files: int
    bytes: int


def push(
    bundle: BundleArgument,
    to: Annotated[str, typer.Argument(metavar="oci://HOST/REPOSITORY:TAG", help="The address to send it to.")],
    retries: Annotated[int, _RETRIES] = 8,
    plain_http: Annotated[bool, _PLAIN] = False,
    as_json: JsonOption = False,
) -> None:
    """Verify a bundle and send it to an OCI registry, as an artifact with one layer per file.

    Layers that the registry already has are not sent again. Credentials are those of `docker login`.
    """
    scheme, _, address = to.partition("://")
    if scheme != "oci":
        raise UsageError(
            f"{to} is not an OCI registry: give oci://HOST/REPOSITORY:TAG. To other places, copy the folder as it is"
        )
    opened = Bundle.open(bundle)
    opened.require_complete("a registry")
    opened.verify()
    files = opened.manifest.files
    with TransferProgress("pushing") as bar:
        bar.begin(sum(file.size for file in files.values()))
        source = oci.push(opened, address, plain_http, RetryPolicy(retries), lambda _, size: bar.advance(size, True))
    digest = digest_of(opened.path(MANIFEST).read_bytes())
    report = PushReport(
        str(bundle), source, digest, opened.fingerprint, len(files), sum(f.size for f in files.values())
    )
    if as_json:
        typer.echo(msgspec.json.encode(report).decode())
        return
    console = terminal.output()
    console.print(f"{bundle} is at {source}", soft_wrap=True)
    console.print(f"{MANIFEST} {digest}, fingerprint {report.fingerprint}", soft_wrap=True)


def pull(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="oci://HOST/REPOSITORY@sha256:DIGEST (or :TAG), s3://BUCKET/PREFIX, https://HOST/FOLDER/, or "
            "hf://ORGANISATION/MODEL@REVISION.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="The bundle folder to write. A stopped pull to it is continued.")],
    force: Annotated[
        bool, typer.Option("--force", help="Replace another bundle there, or a damaged copy of this one.")
    ] = False,
    variant: Annotated[
        str | None, typer.Option(metavar="NAME", help="Fetch the files of this variant only, not of the others.")
    ] = None,
    as_json: JsonOption = False,
    digest: Annotated[
        str | None,
        typer.Option(
            metavar="sha256:...",
            help=f"Accept only a bundle whose {MANIFEST} has this digest.",
            rich_help_panel=_TRUST,
        ),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(
            help="Public key, PEM: accept only a bundle that was signed with its private half.", rich_help_panel=_TRUST
        ),
    ] = None,
    max_bytes: Annotated[int, typer.Option(min=1, help="Reject a bundle that is larger.", rich_help_panel=_TRUST)] = 100
    << 30,
    retries: Annotated[int, _RETRIES] = 8,
    plain_http: Annotated[bool, _PLAIN] = False,
) -> None:
    """Fetch a bundle, verify every file, and put it in place in one step.

    If it is killed, run it again: complete files are not fetched again, and the others continue where they stopped.
    Exits 4 if a file or the digest differs from what was asked for. Credentials: those of `docker login` (oci), AWS_*
    variables (s3), ~/.netrc (https), HF_TOKEN (hf).
    """
    options = PullOptions(
        digest=require_digest(digest) if digest else None,
        force=force,
        variant=variant,
        key=key,
        most_bytes=max_bytes,
        retry=RetryPolicy(retries),
    )
    with TransferProgress("pulling") as bar:
        report = fetch(open_source(source, TrustOptions(options.digest, plain_http)), out, options, bar)
    if as_json:
        typer.echo(msgspec.json.encode(report).decode())
        return
    console = terminal.output()
    console.print(f"{report.source}", soft_wrap=True)
    console.print(f"{MANIFEST} {report.digest}", soft_wrap=True)
    amount = (
        f"{report.fetched_bytes / 1e6:,.0f} MB of {report.bytes / 1e6:,.0f} MB fetched now"
        if report.fetched_bytes
        else "it was there already"
    )
    console.print(
        f"{report.out} is ready, {report.files} files, fingerprint {report.fingerprint[:12]}: {amount}", soft_wrap=True
    )
