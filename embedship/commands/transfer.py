"""The verbs `push` and `pull`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from embedship.bundle import MANIFEST, Bundle
from embedship.errors import UsageError
from embedship.transfer import oci
from embedship.transfer.address import TrustOptions, open_source
from embedship.transfer.progress import TransferProgress
from embedship.transfer.pull import PullOptions, require_digest
from embedship.transfer.pull import pull as fetch
from embedship.transfer.registry import digest_of
from embedship.transfer.retry import RetryPolicy

_RETRIES = typer.Option(
    help="Failures in a row that end it: lost connections, 5xx. Waits double between.", min=1, max=100
)
_PLAIN = typer.Option("--plain-http", help="Speak to the registry without TLS; loopback is spoken to so anyway.")
_JSON = typer.Option("--json", help="Print the result as JSON.")


class PushReport(msgspec.Struct, frozen=True):
    """What `--json` prints. `source` is for `pull`, by the digest of the OCI manifest; `digest` is bundle.json's."""

    bundle: str
    source: str
    digest: str
    fingerprint: str
    files: int
    bytes: int


def push(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle folder.")],
    to: Annotated[str, typer.Argument(metavar="oci://HOST/REPOSITORY:TAG", help="Where it shall lie.")],
    retries: Annotated[int, _RETRIES] = 8,
    plain_http: Annotated[bool, _PLAIN] = False,
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Verify a bundle and send it to an OCI registry, as an artifact with a layer a file.

    Layers that the registry has are not sent again. Credentials are those of `docker login`.
    """
    scheme, _, address = to.partition("://")
    if scheme != "oci":
        raise UsageError(
            f"{to} is no registry: give oci://HOST/REPOSITORY:TAG; other places take a plain copy of the folder"
        )
    opened = Bundle.open(bundle)
    opened.verify()
    files = opened.manifest.files
    with TransferProgress("pushing") as bar:
        bar.begin(sum(file.size for file in files.values()))
        source = oci.push(opened, address, plain_http, RetryPolicy(retries), lambda _, size: bar.saw(size, True))
    digest = digest_of(opened.path(MANIFEST).read_bytes())
    done = PushReport(str(bundle), source, digest, opened.fingerprint, len(files), sum(f.size for f in files.values()))
    if as_json:
        typer.echo(msgspec.json.encode(done).decode())
        return
    console = Console(highlight=False)
    console.print(f"{bundle} lies at {source}", soft_wrap=True)
    console.print(f"its {MANIFEST} is {digest}, its fingerprint {done.fingerprint}", soft_wrap=True)


def pull(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="oci://HOST/REPOSITORY@sha256:DIGEST (or :TAG), s3://BUCKET/PREFIX, https://HOST/FOLDER/, or "
            "hf://ORGANISATION/MODEL@REVISION.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="The bundle folder to write; a pull that was stopped there goes on.")],
    digest: Annotated[
        str | None, typer.Option(metavar="sha256:...", help=f"Of {MANIFEST}: refuse any other bundle.")
    ] = None,
    key: Annotated[
        Path | None, typer.Option(help="Public key, PEM: the bundle must carry a signature by its private half.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace what lies there: another bundle, or a damaged copy of this one.")
    ] = False,
    max_bytes: Annotated[int, typer.Option(min=1, help="Refuse a bundle that is larger.")] = 100 << 30,
    retries: Annotated[int, _RETRIES] = 8,
    plain_http: Annotated[bool, _PLAIN] = False,
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Fetch a bundle, verify every file, and put it in place in one step.

    Killed at any moment, the same command goes on: whole files are not fetched again, others from where they stopped.
    Exits 4 when a file or the digest is not what was asked for. Credentials: those of `docker login` (oci), AWS_*
    variables (s3), ~/.netrc (https), HF_TOKEN (hf).
    """
    wishes = PullOptions(
        digest=require_digest(digest) if digest else None,
        force=force,
        key=key,
        most_bytes=max_bytes,
        patience=RetryPolicy(retries),
    )
    with TransferProgress("pulling") as bar:
        done = fetch(open_source(source, TrustOptions(wishes.digest, plain_http)), out, wishes, bar)
    if as_json:
        typer.echo(msgspec.json.encode(done).decode())
        return
    console = Console(highlight=False)
    console.print(f"{done.source}", soft_wrap=True)
    console.print(f"{MANIFEST} {done.digest}", soft_wrap=True)
    came = (
        f"{done.fetched_bytes / 1e6:,.0f} MB of {done.bytes / 1e6:,.0f} fetched now"
        if done.fetched_bytes
        else "it was there already"
    )
    console.print(
        f"{done.out} is ready, {done.files} files, fingerprint {done.fingerprint[:12]}: {came}", soft_wrap=True
    )
