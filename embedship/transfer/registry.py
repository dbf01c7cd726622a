"""HTTP client of an OCI registry: manifests and blobs (OCI Distribution 1.1).

We wrote our own client, because the oras client (0.2.43) reads a whole file into memory to push it, sets no timeout,
never renews an expired token, and cannot resume. In a test, the oras client pulls a bundle that this client pushed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlencode, urljoin, urlsplit

import requests
from requests.auth import AuthBase, HTTPBasicAuth

from embedship.errors import UnsafeError, UsageError
from embedship.transfer.credentials import RegistryLogin, login
from embedship.transfer.errors import TransferError
from embedship.transfer.web import (
    BearerAuth,
    HttpRequest,
    HttpSession,
    body,
    is_loopback,
    range_request,
    read_limited,
    send,
)

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_LARGEST_MANIFEST = 4 << 20  # bytes: the limit of registries
_NAME = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?P<host>[A-Za-z0-9.-]+(?::\d+)?|\[::1\]:\d+)/(?P<repository>{_NAME}(?:/{_NAME})*)"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class ImageReference(NamedTuple):
    """An address in a registry: host, repository, and a tag or a digest."""

    host: str
    repository: str
    tag: str | None
    digest: str | None

    @classmethod
    def parse(cls, text: str) -> ImageReference:
        """Parse HOST/REPOSITORY:TAG or HOST/REPOSITORY@sha256:...; the host is required. Raises UsageError."""
        match = _REFERENCE.fullmatch(text)
        if not match or not (match["tag"] or match["digest"]):
            raise UsageError(
                f"oci://{text} is not an address in a registry: give oci://HOST/REPOSITORY:TAG or "
                "oci://HOST/REPOSITORY@sha256:DIGEST"
            )
        return cls(match["host"], match["repository"], match["tag"], match["digest"])

    def at(self, digest: str) -> str:
        """Return the address of a digest in this repository."""
        return f"oci://{self.host}/{self.repository}@{digest}"


class ImageRegistry:
    """One repository. Credentials are Docker's (see `login`). A token is requested if the registry demands one."""

    def __init__(self, reference: ImageReference, plain_http: bool = False) -> None:
        host = reference.host.rpartition(":")[0] or reference.host
        plain = plain_http or is_loopback(host.strip("[]"))
        self._base = f"{'http' if plain else 'https'}://{reference.host}/v2/{reference.repository}/"
        self._login = login(reference.host)
        self._session = HttpSession()
        self._auth: AuthBase = _Anonymous()

    def manifest(self, reference: str) -> bytes:
        """Return the manifest of a tag or digest. Raises UnsafeError if it is too large or has another digest."""
        call = HttpRequest("GET", self._base + f"manifests/{reference}", {"Accept": MANIFEST_TYPE})
        with self._send(call) as response:
            raw = read_limited(response, _LARGEST_MANIFEST)
        if len(raw) > _LARGEST_MANIFEST:
            raise UnsafeError(f"the manifest {reference} is larger than {_LARGEST_MANIFEST} bytes")
        if reference.startswith("sha256:") and digest_of(raw) != reference:
            raise UnsafeError(f"the registry sent another manifest than {reference}: its digest is {digest_of(raw)}")
        return raw

    def blob(self, digest: str, offset: int) -> Iterator[bytes]:
        """Yield the bytes of a blob from `offset`. The caller compares them with the digest.

        Raises UnsafeError if `digest` is not a digest.
        """
        if not _DIGEST.fullmatch(digest):  # it becomes a part of a URL to which credentials are sent
            raise UnsafeError(f"the registry's manifest names a layer {digest!r}, which is not a sha256 digest")
        with self._send(range_request(HttpRequest("GET", self._base + f"blobs/{digest}"), offset)) as response:
            yield from body(response, offset)

    def has(self, digest: str) -> bool:
        """Return whether the registry has a blob."""
        with self._send(HttpRequest("HEAD", self._base + f"blobs/{digest}"), frozenset({404})) as response:
            return response.status_code == 200

    def upload(self, digest: str, path: Path) -> None:
        """Send a whole file as a stream. The registry rejects it if its digest differs."""
        with self._send(HttpRequest("POST", self._base + "blobs/uploads/", {"Content-Length": "0"})) as response:
            location = urljoin(response.url, response.headers.get("Location", ""))
        # Otherwise a password would be sent to another host, or without TLS.
        if urlsplit(location)[:2] != urlsplit(self._base)[:2]:
            raise TransferError(
                f"{urlsplit(self._base).netloc} sends uploads to another host, or to one without TLS: push with the "
                "host name that the registry itself uses"
            )
        target = location + ("&" if urlsplit(location).query else "?") + f"digest={digest}"
        with path.open("rb") as file:
            # requests would send an empty file in chunks, which registries reject. It knows the length of other files.
            data = file if path.stat().st_size else b""
            with self._send(HttpRequest("PUT", target, {"Content-Type": "application/octet-stream"}, data)):
                pass

    def put(self, tag: str, manifest: bytes) -> None:
        """Store a manifest under a tag."""
        with self._send(HttpRequest("PUT", self._base + f"manifests/{tag}", {"Content-Type": MANIFEST_TYPE}, manifest)):
            pass

    @contextmanager
    def _send(self, call: HttpRequest, accept: frozenset[int] = frozenset()) -> Iterator[requests.Response]:
        """Send a request with the known credentials. If the registry answers 401, send it once more with new ones."""
        with send(self._session, call._replace(auth=self._auth), accept | {401}) as response:
            if response.status_code != 401:
                yield response
                return
            self._auth = self._answer_challenge(response.headers.get("WWW-Authenticate", ""))
        if call.data is not None and not isinstance(call.data, bytes):
            call.data.seek(0)
        with send(self._session, call._replace(auth=self._auth), accept) as response:
            yield response

    def _answer_challenge(self, challenge: str) -> AuthBase:
        """Return the credentials: the password for Basic, a new token for Bearer (tokens expire after minutes)."""
        scheme, _, parameters = challenge.partition(" ")
        if scheme.lower() == "basic" and self._login:
            return HTTPBasicAuth(self._login.user, self._login.password)
        fields = dict(re.findall(r'(\w+)="([^"]*)"', parameters))
        if scheme.lower() == "bearer" and "realm" in fields:
            return BearerAuth(self._token(fields.pop("realm"), fields))
        return self._auth

    def _token(self, realm: str, fields: dict[str, str]) -> str:
        if self._base.startswith("https:") and not realm.startswith("https:"):
            raise TransferError("the registry asks for credentials without encryption: they were not sent")
        wanted = {key: value for key, value in fields.items() if key in ("service", "scope")}
        with send(self._session, _token_call(realm, wanted, self._login)) as response:
            try:
                answer = response.json()
                token = answer.get("token") or answer["access_token"]
            except (ValueError, KeyError, AttributeError):
                raise TransferError(f"{urlsplit(realm).netloc} sent no token") from None
        return str(token)


class _Anonymous(AuthBase):
    """Sends no credentials. Without this class, requests would send those of ~/.netrc."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


def _token_call(realm: str, wanted: Mapping[str, str], known: RegistryLogin | None) -> HttpRequest:
    if known and known.refresh:
        form = {"grant_type": "refresh_token", "refresh_token": known.refresh, "client_id": "embedship", **wanted}
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        return HttpRequest("POST", realm, kind, urlencode(form).encode(), _Anonymous())
    url = realm + ("&" if urlsplit(realm).query else "?") + urlencode(wanted)
    return HttpRequest("GET", url, auth=HTTPBasicAuth(known.user, known.password) if known else _Anonymous())


def digest_of(raw: bytes) -> str:
    return f"sha256:{hashlib.sha256(raw).hexdigest()}"
