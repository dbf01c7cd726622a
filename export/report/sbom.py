"""sbom.cdx.json, the bill of materials in CycloneDX 1.6: the model, its files, and the packages that made them."""

from __future__ import annotations

import uuid
from datetime import datetime
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import License
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from embedship.bundle import BundleManifest
from embedship.files import sealed
from embedship.files.sealed import SealedFile

SBOM = "sbom.cdx.json"


def write(folder: Path, manifest: BundleManifest) -> None:
    """Describe the bundle in `folder`. The same bundle gives the same bytes.

    CycloneDX requires a unique serial number. It is derived from the content instead of drawn at random.
    """
    model = _model(manifest, folder)
    packages = [_package(name, version) for name, version in sorted(manifest.source.versions.items())]
    bom = Bom(components=packages)
    bom.metadata.component = model
    bom.metadata.tools.components.add(_package("embedship", manifest.source.versions["embedship"]))
    bom.metadata.timestamp = datetime.fromisoformat(manifest.created)
    bom.register_dependency(model, packages)
    bom.serial_number = _serial(manifest, model)
    (folder / SBOM).write_text(JsonV1Dot6(bom).output_as_string(indent=1) + "\n", encoding="utf-8")


def _model(manifest: BundleManifest, folder: Path) -> Component:
    pipeline, source = manifest.pipeline, manifest.source
    facts = {
        "fingerprint": manifest.fingerprint,
        "architecture": pipeline.architecture,
        "pooling": pipeline.pooling,
        "dimension": str(pipeline.dimension),
        "max_tokens": str(pipeline.max_tokens),
        "weights_sha256": source.weights_sha256,
    }
    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        name=source.name,
        version=manifest.fingerprint[:12],
        bom_ref=f"model:{manifest.fingerprint}",
        hashes=[_hash(source.weights_sha256)],  # of the float32 weights, independent of the file format
        components=[_file(name, SealedFile.from_path(folder / name)) for name in _weights(manifest, folder)],
        properties=[Property(name=f"embedship:{name}", value=value) for name, value in facts.items()],
    )


def _weights(manifest: BundleManifest, folder: Path) -> list[str]:
    """Return the graphs and the files that belong to them, such as separate weights."""
    graphs = {Path(variant.path).parent.as_posix() for variant in manifest.variants}
    return [name for name in sealed.list_files(folder) if Path(name).parent.as_posix() in graphs]


def _file(name: str, file: SealedFile) -> Component:
    return Component(type=ComponentType.FILE, name=name, bom_ref=f"file:{name}", hashes=[_hash(file.sha256)])


def _hash(sha256: str) -> HashType:
    return HashType(alg=HashAlgorithm.SHA_256, content=sha256)


def _package(name: str, version: str) -> Component:
    purl = PackageURL("pypi", name=name.lower().replace("_", "-"), version=version)
    return Component(
        type=ComponentType.LIBRARY,
        name=name,
        version=version,
        purl=purl,
        bom_ref=purl.to_string(),
        licenses=[_licence(text)] if (text := _stated(name)) else [],
    )


def _licence(text: str) -> License:
    return LicenseFactory().make_from_string(text)


def _stated(name: str) -> str | None:
    """Return the licence as the package states it: an SPDX expression, free text, or the classifier."""
    try:
        facts = metadata(name)
    except PackageNotFoundError:
        return None
    classifiers = [c.rpartition(" :: ")[2] for c in facts.get_all("Classifier", []) if c.startswith("License :: ")]
    words = [*facts.get_all("License-Expression", []), *facts.get_all("License", []), *classifiers]
    return next((word for word in words if word and "\n" not in word), None)  # some packages put the full text there


def _serial(manifest: BundleManifest, model: Component) -> uuid.UUID:
    files = " ".join(f"{c.name} {h.content}" for c in sorted(model.components) for h in c.hashes)
    return uuid.uuid5(uuid.NAMESPACE_URL, f"{manifest.fingerprint} {manifest.created} {files}")
