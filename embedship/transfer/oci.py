"""OCI artifacts: a bundle with one layer per file, named as `oras` names them.

artifactType  application/vnd.embedship.bundle.v1
config        {} (application/vnd.oci.empty.v1+json)
layers        one per file, title = its name in the bundle; bundle.json first, then model.sig if there is one
annotations   fingerprint, name of the model, time of the export
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from embedship.bundle import MANIFEST, SIGNATURE, Bundle
from embedship.errors import UnsafeError, UsageError
from embedship.files import sealed
from embedship.files.sealed import SealedFile
from embedship.transfer.errors import NotFound
from embedship.transfer.registry import MANIFEST_TYPE, ImageReference, ImageRegistry, digest_of
from embedship.transfer.retry import RetryPolicy

ARTIFACT = "application/vnd.embedship.bundle.v1"
_TITLE = "org.opencontainers.image.title"
_EMPTY = b"{}"
_EMPTY_TYPE = "application/vnd.oci.empty.v1+json"


class ImageLayer(msgspec.Struct, frozen=True, rename="camel"):
    """A layer of an OCI manifest. Other keys are ignored."""

    digest: str
    size: int
    media_type: str = "application/octet-stream"
    annotations: dict[str, str] | None = None


class ImageArtifact(msgspec.Struct, frozen=True, rename="camel"):
    """The part of an OCI manifest that is read. Other keys are ignored."""

    layers: tuple[ImageLayer, ...]


class OciSource:
    """`oci://HOST/REPOSITORY:TAG` or `@sha256:...`. The manifest is read once. Then a tag is replaced by its digest."""

    def __init__(self, address: str, plain_http: bool = False) -> None:
        self._reference = ImageReference.parse(address)
        self._registry = ImageRegistry(self._reference, plain_http)
        self._layers: dict[str, str] | None = None  # name -> digest
        self.pinned = f"oci://{address}"

    def read(self, name: str, offset: int) -> Iterator[bytes]:
        """See BundleSource."""
        if self._layers is None:
            self._layers = self._open()
        if name not in self._layers:
            raise NotFound(f"{self.pinned} has no layer {name}")
        digest = self._layers[name]
        pieces = self._registry.blob(digest, offset)
        if name not in (MANIFEST, SIGNATURE):  # the other files are checked against bundle.json
            yield from pieces
            return
        hasher = hashlib.sha256()
        for piece in pieces:
            hasher.update(piece)
            yield piece
        if f"sha256:{hasher.hexdigest()}" != digest:
            raise UnsafeError(f"the registry sent a {name} whose digest is not the {digest} that {self.pinned} lists")

    def _open(self) -> dict[str, str]:
        raw = self._registry.manifest(self._reference.digest or self._reference.tag or "")
        self.pinned = self._reference.at(digest_of(raw))
        try:
            layers = msgspec.json.decode(raw, type=ImageArtifact).layers
        except msgspec.MsgspecError as error:
            raise UsageError(f"{self.pinned} is not a bundle pushed by `embedship push`: {error}") from None
        titles = [(layer.annotations or {}).get(_TITLE, "") for layer in layers]
        if len(set(titles)) < len(titles):
            raise UnsafeError(f"{self.pinned} has two layers with the same name, or without a name")
        return dict(zip(titles, (layer.digest for layer in layers), strict=True))


def push(bundle: Bundle, address: str, plain_http: bool, retry: RetryPolicy, done: Callable[[str, int], None]) -> str:
    """Send a verified bundle, and return its address by digest. Files that the registry has are not sent again.

    `done(name, bytes)` is called for each file that is in the registry. The tag is written last, so it never names an
    incomplete bundle. Raises UsageError, TransferError.
    """
    reference = ImageReference.parse(address)
    if reference.tag is None or reference.digest:
        raise UsageError(
            f"oci://{address}: give a tag to push to, oci://HOST/REPOSITORY:TAG; the digest is computed by push"
        )
    registry = ImageRegistry(reference, plain_http)
    files = _files(bundle)
    for name, file in files.items():
        retry.run(partial(_send, registry, bundle.path(name), f"sha256:{file.sha256}"))
        done(name, file.size)
    retry.run(partial(_send_bytes, registry, _EMPTY))
    raw = _manifest(bundle, files)
    retry.run(partial(registry.put, reference.tag, raw))
    return reference.at(digest_of(raw))


def _files(bundle: Bundle) -> dict[str, SealedFile]:
    signature = [SIGNATURE] if SIGNATURE in sealed.list_files(bundle.folder) else []
    own = {name: SealedFile.from_path(bundle.path(name)) for name in (MANIFEST, *signature)}
    return {**own, **bundle.manifest.files}


def _send(registry: ImageRegistry, path: Path, digest: str) -> None:
    if not registry.has(digest):
        registry.upload(digest, path)


def _send_bytes(registry: ImageRegistry, content: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        _send(registry, Path(file.name), digest_of(content))


def _manifest(bundle: Bundle, files: dict[str, SealedFile]) -> bytes:
    """Return the OCI manifest: always the same bytes for the same bundle, so it has one digest if pushed twice."""
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": ARTIFACT,
        "config": {"mediaType": _EMPTY_TYPE, "digest": digest_of(_EMPTY), "size": len(_EMPTY)},
        "layers": [
            ImageLayer(f"sha256:{file.sha256}", file.size, annotations={_TITLE: name}) for name, file in files.items()
        ],
        "annotations": {
            "org.opencontainers.image.created": bundle.manifest.created,
            "org.opencontainers.image.title": bundle.manifest.source.name,
            "embedship.fingerprint": bundle.fingerprint,
        },
    }
    return msgspec.json.encode(manifest)
