"""Writes a copy of the chart with the fields of a release: its addresses, and its images for Artifact Hub.

    python -P tools/release_chart.py OUT --registry REGISTRY --source URL [--sign-key FINGERPRINT=URL]

The release workflow packages the copy. Field names: Chart.yaml of Helm, and the annotations of Artifact Hub.
"""

from __future__ import annotations

import argparse
import re
import shutil
from pathlib import Path

CHART = Path(__file__).resolve().parents[1] / "helm" / "embedship"
IMAGES = {"cpu": "", "gpu": "-gpu", "ray": "-ray"}  # Dockerfile -> suffix of the tag


def release(out: Path, registry: str, source: str, sign_key: str | None = None) -> None:
    """Copy the chart to `out`, and add the release's fields to its Chart.yaml.

    `sign_key`: fingerprint and public address of an OpenPGP key, if `helm package --sign` uses one. Signatures of
    cosign need no annotation.
    """
    shutil.copytree(CHART, out)
    file = out / "Chart.yaml"
    text = file.read_text()
    version = re.search(r'^appVersion: "(.+)"$', text, re.MULTILINE)
    assert version, "Chart.yaml names the version of the server"
    pages = f"{source}/blob/v{version[1]}"
    lines = [
        *("  artifacthub.io/images: |", *(f"    - {line}" for line in _images(registry, version[1]))),
        *("  artifacthub.io/links: |", *_link("Documentation", f"{pages}/docs/deploy.md")),
        *_link("Changelog", f"{pages}/CHANGELOG.md"),
    ]
    if sign_key:
        fingerprint, _, url = sign_key.partition("=")
        lines += ["  artifacthub.io/signKey: |", f"    fingerprint: {fingerprint}", f"    url: {url}"]
    head = f"home: {source}\nsources: [{source}]\n"
    # `annotations` is the last field, so that its entries can be appended.
    file.write_text(text.replace("annotations:\n", f"{head}annotations:\n").rstrip() + "\n" + "\n".join(lines) + "\n")


def _images(registry: str, version: str) -> list[str]:
    return [f"{{name: {name}, image: {registry}/embedship:{version}{suffix}}}" for name, suffix in IMAGES.items()]


def _link(name: str, url: str) -> tuple[str, str]:
    return f"    - name: {name}", f"      url: {url}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--registry", required=True, help="host, and folder if any, of the images")
    parser.add_argument("--source", required=True, help="address of the repository")
    parser.add_argument("--sign-key", help="fingerprint of an OpenPGP key, =, and the address of its public part")
    given = parser.parse_args()
    release(given.out, given.registry, given.source, given.sign_key)
