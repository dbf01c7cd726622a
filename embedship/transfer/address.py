"""Addresses of bundles: opens the source of an address by its scheme."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from embedship.errors import UsageError
from embedship.transfer import BundleSource

if TYPE_CHECKING:
    from embedship.transfer.folder import HubFolder, WebFolder
    from embedship.transfer.s3 import S3Source


class TrustOptions(NamedTuple):
    """How to be sure of a bundle's origin: TLS proves the server; without TLS only a digest proves the bundle."""

    digest: str | None
    plain_http: bool  # the user allows plain HTTP


def open_source(address: str, trust: TrustOptions) -> BundleSource:
    """Open `oci://`, `s3://`, `https://`, `http://` or `hf://`. The library for the scheme is imported here.

    Raises UsageError for another address, and for one without TLS if no digest is given.
    """
    scheme, separator, rest = address.partition("://")
    match scheme if separator and rest else "":
        case "oci":
            from embedship.transfer.oci import OciSource

            return OciSource(rest, trust.plain_http)
        case "s3":
            from embedship.transfer.s3 import S3Source

            return _require_trusted(S3Source(rest), trust)
        case "hf":
            from embedship.transfer.folder import HubFolder

            return _require_trusted(HubFolder(rest), trust)
        case "https" | "http":
            from embedship.transfer.folder import WebFolder

            return _require_trusted(WebFolder(address), trust)
    raise UsageError(f"{address} is not an address of a bundle: give oci://, s3://, https:// or hf://")


def _require_trusted(source: WebFolder | HubFolder | S3Source, trust: TrustOptions) -> BundleSource:
    if not source.authenticated and trust.digest is None:
        raise UsageError(
            f"{source.pinned} is read without TLS, so nothing proves which server answers: give --digest, or use https"
        )
    return source
