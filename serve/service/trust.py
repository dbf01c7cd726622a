"""Trust: refuses bundles and indexes that lack the signature or the digest that the operator requires.

This is the first step of opening a service, at the start and in a reload. The server therefore does not parse the
graph, the tokenizer or the index of a refused folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from embedship import bundle as bundles
from embedship.bundle import Bundle
from embedship.errors import MismatchError, UnsafeError
from embedship.files import sealed
from embedship.serve.index import manifest
from embedship.serve.live import changes_folder, database
from embedship.serve.settings import Settings


def require_trusted(settings: Settings) -> None:
    """Check every bundle and index of the settings. Without --key and --digests, nothing is checked.

    Raises UnsafeError for a wrong or missing signature, MismatchError for a digest that is not listed, UsageError for a
    file that is not a public key.
    """
    if not settings.key and not settings.expected_digests:
        return
    for path in _bundles(settings):
        bundle = Bundle.open(path)
        _require_digest(path / bundles.MANIFEST, settings)
        bundle.verify()
        if settings.key:
            from embedship.bundle import signing  # the extra [sign]

            signing.check(bundle, settings.key)
    for path in _indexes(settings):
        stored = manifest.read(path)
        _require_digest(path / manifest.MANIFEST, settings)
        _require_no_changes(path)
        manifest.verify(path, stored)
        if settings.key:
            from embedship.serve.index import signing as index_signing  # the extra [sign]

            index_signing.check(path, settings.key)


def _bundles(settings: Settings) -> Iterator[Path]:
    paths = (settings.bundle, settings.reranker, settings.candidate_bundle)
    yield from (path for path in paths if path is not None)


def _indexes(settings: Settings) -> Iterator[Path]:
    yield from (path for path in (settings.index, settings.candidate_index) if isinstance(path, Path))


def _require_digest(path: Path, settings: Settings) -> None:
    digest = sealed.file_digest(path)
    if settings.expected_digests and digest not in settings.expected_digests:
        raise MismatchError(
            f"{path} has the digest {digest}, which --digests does not list: use the folder that was meant, or add "
            "this digest"
        )


def _require_no_changes(index: Path) -> None:
    folder = changes_folder(index)
    if database.exists(folder):
        raise UnsafeError(
            f"{folder} has changes that no signature or digest covers: write an index that contains them with "
            "`embedship index migrate`, and sign it, or leave --key and --digests out"
        )
