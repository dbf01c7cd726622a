"""The HTTP of an OCI registry, as far as files need it: manifests and blobs (OCI Distribution 1.1).

Ours, and not the oras client's: that one (0.2.43) reads a whole file into memory to push it, sets no timeout, never
renews a token that has expired, and cannot resume. Its files are ours nevertheless: a test has it pull what we push.
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
from embedship.transfer.web import BearerAuth, HttpRequest, HttpSession, body, capped, is_loopback, ranged, send

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_LARGEST_MANIFEST = 4 << 20  # bytes: what registries allow
_NAME = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?P<host>[A-Za-z0-9.-]+(?::\d+)?|\[::1\]:\d+)/(?P<repository>{_NAME}(?:/{_NAME})*)"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class ImageReference(NamedTuple):
    host: str
    repository: str
    tag: str | None
    digest: str | None

    @classmethod
    def parse(cls, text: str) -> ImageReference:
        """HOST/REPOSITORY:TAG or HOST/REPOSITORY@sha256:..., the host always named."""
        found = _REFERENCE.fullmatch(text)
        if not found or not (found["tag"] or found["digest"]):
            raise UsageError(f"oci://{text}: give oci://HOST/REPOSITORY:TAG or oci://HOST/REPOSITORY@sha256:DIGEST")
        return cls(found["host"], found["repository"], found["tag"], found["digest"])

    def at(self, digest: str) -> str:
        return f"oci://{self.host}/{self.repository}@{digest}"


class ImageRegistry:
    """One repository. Credentials are Docker's (see `login`); a token is asked for when the registry wants one."""

    def __init__(self, reference: ImageReference, plain_http: bool = False) -> None:
        host = reference.host.rpartition(":")[0] or reference.host
        plain = plain_http or is_loopback(host.strip("[]"))
        self._base = f"{'http' if plain else 'https'}://{reference.host}/v2/{reference.repository}/"
        self._login = login(reference.host)
        self._session = HttpSession()
        self._auth: AuthBase = _Anonymous()

    def manifest(self, reference: str) -> bytes:
        """The manifest of a tag or digest; if it is a digest, the bytes have it. Raises UnsafeError if not."""
        call = HttpRequest("GET", self._base + f"manifests/{reference}", {"Accept": MANIFEST_TYPE})
        with self._answered(call) as answer:
            raw = capped(answer, _LARGEST_MANIFEST)
        if len(raw) > _LARGEST_MANIFEST:
            raise UnsafeError(f"the manifest {reference} is larger than {_LARGEST_MANIFEST} bytes")
        if reference.startswith("sha256:") and digest_of(raw) != reference:
            raise UnsafeError(
                f"the registry gave another manifest than {reference}: its own digest is {digest_of(raw)}"
            )
        return raw

    def blob(self, digest: str, offset: int) -> Iterator[bytes]:
        """Whoever takes the bytes holds them against the digest. Raises UnsafeError for what cannot be one."""
        if not _DIGEST.fullmatch(digest):  # it becomes a part of an address that credentials are sent to
            raise UnsafeError(f"the registry's manifest names a layer {digest!r}, which is no sha256 digest")
        with self._answered(ranged(HttpRequest("GET", self._base + f"blobs/{digest}"), offset)) as answer:
            yield from body(answer, offset)

    def has(self, digest: str) -> bool:
        with self._answered(HttpRequest("HEAD", self._base + f"blobs/{digest}"), frozenset({404})) as answer:
            return answer.status_code == 200

    def upload(self, digest: str, path: Path) -> None:
        """Send a file whole, streamed; the registry refuses it if its digest is another."""
        with self._answered(HttpRequest("POST", self._base + "blobs/uploads/", {"Content-Length": "0"})) as answer:
            place = urljoin(answer.url, answer.headers.get("Location", ""))
        if urlsplit(place)[:2] != urlsplit(self._base)[:2]:  # a password would go there, or go in the clear
            raise TransferError(
                f"{urlsplit(self._base).netloc} sends uploads to another host, or away from TLS: push through the name "
                "that it knows itself by"
            )
        target = place + ("&" if urlsplit(place).query else "?") + f"digest={digest}"
        with path.open("rb") as file:
            # An empty body would be sent in chunks, which registries do not take; the length of a file is known.
            data = file if path.stat().st_size else b""
            with self._answered(HttpRequest("PUT", target, {"Content-Type": "application/octet-stream"}, data)):
                pass

    def put(self, tag: str, manifest: bytes) -> None:
        with self._answered(
            HttpRequest("PUT", self._base + f"manifests/{tag}", {"Content-Type": MANIFEST_TYPE}, manifest)
        ):
            pass

    @contextmanager
    def _answered(self, call: HttpRequest, accept: frozenset[int] = frozenset()) -> Iterator[requests.Response]:
        """Answered as whom the registry wants: asked once as we are, and once more after its challenge."""
        with send(self._session, call._replace(auth=self._auth), accept | {401}) as answer:
            if answer.status_code != 401:
                yield answer
                return
            self._auth = self._challenged(answer.headers.get("WWW-Authenticate", ""))
        if call.data is not None and not isinstance(call.data, bytes):
            call.data.seek(0)
        with send(self._session, call._replace(auth=self._auth), accept) as answer:
            yield answer

    def _challenged(self, challenge: str) -> AuthBase:
        """What proves who we are: a password for Basic, a new token for Bearer (they expire after minutes)."""
        scheme, _, rest = challenge.partition(" ")
        if scheme.lower() == "basic" and self._login:
            return HTTPBasicAuth(self._login.user, self._login.password)
        asked = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        if scheme.lower() == "bearer" and "realm" in asked:
            return BearerAuth(self._token(asked.pop("realm"), asked))
        return self._auth

    def _token(self, realm: str, asked: dict[str, str]) -> str:
        if self._base.startswith("https:") and not realm.startswith("https:"):
            raise TransferError("the registry wants credentials sent without encryption: they were not")
        wanted = {key: value for key, value in asked.items() if key in ("service", "scope")}
        with send(self._session, _token_call(realm, wanted, self._login)) as answer:
            try:
                found = answer.json()
                token = found.get("token") or found["access_token"]
            except (ValueError, KeyError, AttributeError):
                raise TransferError(f"{urlsplit(realm).netloc} gave no token") from None
        return str(token)


class _Anonymous(AuthBase):
    """No credentials, not even those of ~/.netrc."""

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
