"""From an address to its source."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from embedship.errors import UsageError
from embedship.transfer import BundleSource

if TYPE_CHECKING:
    from embedship.transfer.folder import HubFolder, WebFolder
    from embedship.transfer.s3 import S3Source


class TrustOptions(NamedTuple):
    """What makes sure that the source is who it says it is; else only a digest does."""

    digest: str | None
    plain_http: bool  # asked for by the user


def open_source(address: str, proof: TrustOptions) -> BundleSource:
    """`oci://`, `s3://`, `https://`, `http://` or `hf://`; the library for it is imported here.

    Raises UsageError for another address, and for one that nothing proves and no digest pins.
    """
    scheme, separator, rest = address.partition("://")
    match scheme if separator and rest else "":
        case "oci":
            from embedship.transfer.oci import OciSource

            return OciSource(rest, proof.plain_http)
        case "s3":
            from embedship.transfer.s3 import S3Source

            return _proved(S3Source(rest), proof)
        case "hf":
            from embedship.transfer.folder import HubFolder

            return _proved(HubFolder(rest), proof)
        case "https" | "http":
            from embedship.transfer.folder import WebFolder

            return _proved(WebFolder(address), proof)
    raise UsageError(f"{address} is no source: give oci://, s3://, https:// or hf://")


def _proved(source: WebFolder | HubFolder | S3Source, proof: TrustOptions) -> BundleSource:
    if not source.proves_itself and proof.digest is None:
        raise UsageError(f"{source.pinned} is read without TLS, so nothing proves who answers: give --digest, or https")
    return source
