"""Writes the bill of materials of each image: every package that pip installs, with its sha256 (CycloneDX 1.6).

    python tools/sbom.py OUT     one file per file of helm/images/requirements

The Debian packages of the base image are not listed: scan the built image for them.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

ROOT = Path(__file__).parents[1]
REQUIREMENTS = ROOT / "helm" / "images" / "requirements"

_PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==(\S+)(.*?)(?=^\S|\Z)", re.M | re.S)
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


def components(requirements: str) -> list[Component]:
    """Return a component per pinned package. Its hashes are those of all files that pip accepts."""
    found = []
    for name, version, rest in _PIN.findall(requirements):
        purl = PackageURL("pypi", name=name.lower().replace("_", "-"), version=version)
        hashes = [HashType(alg=HashAlgorithm.SHA_256, content=digest) for digest in _HASH.findall(rest)]
        kind = ComponentType.LIBRARY
        found.append(Component(type=kind, name=name, version=version, purl=purl, bom_ref=str(purl), hashes=hashes))
    return found


def bom(path: Path) -> Bom:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    image = Component(type=ComponentType.CONTAINER, name=f"embedship[{path.stem}]", version=project["version"])
    packages = components(path.read_text())
    described = Bom(components=packages)
    described.metadata.component = image
    described.register_dependency(image, packages)
    return described


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    for each in sorted(REQUIREMENTS.glob("*.txt")):
        target = out / f"sbom-{each.stem}.cdx.json"
        target.write_text(JsonV1Dot6(bom(each)).output_as_string(indent=1) + "\n")
        print(target)
