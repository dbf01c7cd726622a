"""Scans for known vulnerabilities in the pinned packages, and for secrets in tracked files.

    python tools/scan.py packages            pip-audit on the requirements of every image
    python tools/scan.py secrets [FILE ...]  detect-secrets on these files, or on all that git tracks

Both programs run in an environment of their own, which uv makes and keeps. Exit 1: something was found. Exit 2: the
scan could not be done, for example without a connection to PyPI; then nothing has been proved.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
REQUIREMENTS = ROOT / "helm" / "images" / "requirements"

AUDIT, SECRETS = "pip-audit==2.10.1", "detect-secrets==1.5.0"

# Words such as `password` and hashes are everywhere in these files. The other detectors know the form of real keys.
DISABLED = ("KeywordDetector", "Base64HighEntropyString", "HexHighEntropyString")

# Large files that tools write: hashes of packages, measurements.
UNSCANNED = ("constraints", "helm/images/requirements/", "benchmarks/results/")


class ScanFailed(Exception):
    """The scan could not be done; the message says why."""


def audit(path: Path) -> list[str]:
    """Return one line per known vulnerability of a requirements file. Raises ScanFailed."""
    options = ["--disable-pip", "--require-hashes", "--format", "json", "--progress-spinner", "off"]
    answer = _tool(AUDIT, "pip-audit", *options, "--requirement", str(path))
    try:
        packages: list[dict[str, Any]] = json.loads(answer.stdout)["dependencies"]
    except (ValueError, KeyError):
        raise ScanFailed(f"pip-audit failed on {path.name}: {_last_line(answer.stderr)}") from None
    if unknown := [each["name"] for each in packages if "skip_reason" in each]:
        raise ScanFailed(
            f"the vulnerability database of PyPI does not know {len(unknown)} of {len(packages)} packages of "
            f"{path.name} ({', '.join(unknown[:3])}), so they were not checked: run this where PyPI can be reached"
        )
    return [
        f"{path.name}: {each['name']} {each['version']}: {found['id']}, fixed in {', '.join(found['fix_versions'])}"
        for each in packages
        for found in each["vulns"]
    ]


def secrets(files: list[str]) -> list[str]:
    """Return what detect-secrets finds in these files, or in all tracked ones. Raises ScanFailed."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S607 - the git that made this checkout
    names = files or [name for name in tracked.stdout.split("\0") if name and not name.startswith(UNSCANNED)]
    options = [part for name in DISABLED for part in ("--disable-plugin", name)]
    answer = _tool(SECRETS, "detect-secrets-hook", *options, *names)
    if answer.returncode not in (0, 1) or (answer.returncode and not answer.stdout):
        raise ScanFailed(f"detect-secrets failed: {_last_line(answer.stderr)}")
    return [line for line in answer.stdout.splitlines() if line.strip()]


def _tool(package: str, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    beside = Path(sys.executable).with_name("uv")
    command = [str(beside) if beside.exists() else "uv", "tool", "run", "--quiet", "--from", package, program]
    try:
        return subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError as error:
        raise ScanFailed(f"uv cannot be run ({error.strerror}): `make lint` installs it") from None


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1]


def main(kind: str, files: list[str]) -> int:
    try:
        if kind == "secrets":
            found = secrets(files)
        else:
            found = [line for path in sorted(REQUIREMENTS.glob("*.txt")) for line in audit(path)]
    except ScanFailed as error:
        print(f"Nothing was proved: {error}.", file=sys.stderr)
        return 2
    print("\n".join(found) or f"{kind}: nothing found")
    return 1 if found else 0


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in ("packages", "secrets"):
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1], sys.argv[2:]))
