"""`embedship pull --variant`: the files of one variant, all of them verified, and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from embedship import tune
from embedship.bundle import MANIFEST, SIGNATURE, SUBSET, Bundle, BundleSubset, Objective, signing
from embedship.bundle.signing import BundleSigner
from embedship.commands import main
from embedship.errors import UnsafeError, UsageError

from ..bundle.test_signing import pair
from .conftest import LARGE, Place, Run
from .test_pull import digest, total

pytestmark = pytest.mark.parametrize("place", ["http"], indirect=True)


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return pair(tmp_path)


@pytest.fixture
def names(small: Bundle) -> tuple[str, str]:
    """Two variants with graphs of their own."""
    first, second = small.manifest.variants[:2]
    assert small.files_of(first) != small.files_of(second)
    return first.name, second.name


def lacks(small: Bundle, name: str) -> set[str]:
    """Return the files that a pull of this variant leaves out."""
    graphs = {file for variant in small.manifest.variants for file in small.files_of(variant)}
    return graphs - set(small.files_of(small.variant(name)))


def files(out: Path) -> set[str]:
    return {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}


def test_only_the_variant_is_fetched_and_all_of_it_is_verified(
    run: Run, small: Bundle, names: tuple[str, str], tmp_path: Path
) -> None:
    out, absent = tmp_path / "bundle", lacks(small, names[1])
    done = run(out, "--variant", names[1], "--digest", digest(small))
    assert done["code"] == 0, done
    assert files(out) == {MANIFEST, SUBSET, *small.manifest.files} - absent
    left = sum(small.manifest.files[name].size for name in absent)
    assert left >= LARGE
    assert done["fetched_bytes"] == done["bytes"] == total(small) - left
    opened = Bundle.open(out)
    assert opened.verify() == len(small.manifest.files) - len(absent)
    assert [variant.name for variant in opened.variants] == [opened.only] == [names[1]]
    assert (out / MANIFEST).read_bytes() == small.path(MANIFEST).read_bytes(), "the digest is that of the whole bundle"
    again = run(out, "--variant", names[1])
    assert (again["code"], again["fetched_bytes"]) == (0, 0)


def test_each_change_of_what_was_fetched_is_found(
    run: Run, small: Bundle, names: tuple[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    assert run(out, "--variant", names[0])["code"] == 0
    (graph, *_) = (name for name in small.files_of(small.variant(names[0])) if small.manifest.files[name].size >= LARGE)
    (other, *_) = lacks(small, names[0])
    kept = (out / graph).read_bytes()
    (out / graph).write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    with pytest.raises(UnsafeError, match="has changed"):
        Bundle.open(out).verify()
    (out / graph).unlink()
    with pytest.raises(UnsafeError, match="is missing"):
        Bundle.open(out).verify()
    (out / graph).write_bytes(kept)
    (out / other).parent.mkdir(exist_ok=True)
    shutil.copyfile(small.path(other), out / other)
    with pytest.raises(UnsafeError, match="was added"):
        Bundle.open(out).verify()
    (out / other).unlink()
    (out / SUBSET).unlink()
    with pytest.raises(UnsafeError, match="is missing"):
        Bundle.open(out).verify()
    BundleSubset("no such").write(out)
    with pytest.raises(UnsafeError, match="'no such', which the bundle does not have"):
        Bundle.open(out)
    (out / SUBSET).write_text("{")
    with pytest.raises(UnsafeError, match="is damaged"):
        Bundle.open(out)
    refused = run(out, "--variant", names[0])
    assert (refused["code"], "give --force" in refused["error"]) == (4, True)
    assert run(out, "--variant", names[0], "--force")["code"] == 0
    assert Bundle.open(out).verify()


def test_another_variant_replaces_it_only_with_force(run: Run, names: tuple[str, str], tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    assert run(out, "--variant", names[0])["code"] == 0
    for wanted in ((), ("--variant", names[1])):
        refused = run(out, *wanted)
        assert refused["code"] == 2
        assert f"has only the variant {names[0]}" in refused["error"]
    assert run(out, "--variant", names[1], "--force")["code"] == 0
    assert Bundle.open(out).only == names[1]
    assert run(out, "--force")["code"] == 0
    assert Bundle.open(out).only is None
    kept = run(out, "--variant", names[0])
    assert (kept["code"], kept["fetched_bytes"]) == (0, 0), "a complete bundle has every variant"
    unknown = run(tmp_path / "other", "--variant", "no-such")
    assert unknown["code"] == 2
    assert names[0] in unknown["error"]
    assert not (tmp_path / "other").exists()


def test_a_stopped_pull_of_one_variant_becomes_one_of_another(
    run: Run, small: Bundle, names: tuple[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    incoming = tmp_path / ".bundle.incoming" / "files"
    incoming.mkdir(parents=True)
    BundleSubset(names[1]).write(incoming)  # as a killed process leaves it
    for name in small.files_of(small.variant(names[1])):
        (incoming / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(small.path(name), incoming / name)
    assert run(out, "--variant", names[0])["code"] == 0
    opened = Bundle.open(out)
    assert opened.only == names[0]
    assert opened.verify()


def test_it_cannot_be_passed_on_as_the_bundle(
    run: Run, names: tuple[str, str], keys: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bundle"
    run(out, "--variant", names[0])
    assert main.run(["push", str(out), "oci://127.0.0.1:1/team/small:v1"]) == 2
    assert "pull it without --variant" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(UsageError, match="needs the complete bundle"):
        BundleSigner.open(keys[0]).sign(Bundle.open(out))
    with pytest.raises(UsageError, match=f"lacks {names[1]}"):
        Bundle.open(out).variant(names[1])
    with pytest.raises(UsageError, match="needs the complete bundle"):
        tune.remeasure(Bundle.open(out), Objective.LATENCY)
    assert tune.choose_variant(Bundle.open(out)).variant == names[0], "without a measurement"


def test_the_signature_of_the_whole_bundle_holds(
    small: Bundle, names: tuple[str, str], keys: tuple[Path, Path], tmp_path: Path, place: Place
) -> None:
    folder = shutil.copytree(small.folder, tmp_path / "signed")
    BundleSigner.open(keys[0]).sign(Bundle.open(folder))
    for name in lacks(small, names[0]):
        (folder / name).unlink()
    BundleSubset(names[0]).write(folder)
    signing.check(Bundle.open(folder), keys[1])
    listed = (folder / "empty").read_bytes()
    (folder / "empty").write_bytes(b"x")
    with pytest.raises(UnsafeError, match="is not a signature of these files"):
        signing.check(Bundle.open(folder), keys[1])
    (folder / "empty").write_bytes(listed)
    (folder / SUBSET).unlink()
    with pytest.raises(UnsafeError, match="is not a signature of these files"):
        signing.check(Bundle.open(folder), keys[1])
    assert (folder / SIGNATURE).is_file()
