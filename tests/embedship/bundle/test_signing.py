from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from embedship.bundle import SIGNATURE, Bundle, signing
from embedship.bundle.signing import BundleSigner
from embedship.commands import main
from embedship.errors import UnsafeError, UsageError

from .test_bundle import manifest

_TOOL = [sys.executable, "-P", "-m", "model_signing"]


def pair(folder: Path, curve: str = "prime256v1") -> tuple[Path, Path]:
    """A key pair, made with the commands of docs/pipelines.md."""
    private, public = folder / f"{curve}.key", folder / f"{curve}.pub"
    for command in (
        ["openssl", "ecparam", "-name", curve, "-genkey", "-noout", "-out", str(private)],
        ["openssl", "ec", "-in", str(private), "-pubout", "-out", str(public)],
    ):
        subprocess.run(command, check=True, capture_output=True)
    return private, public


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return pair(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A bundle whose files hold three bytes each."""
    folder = tmp_path / "bundle"
    for name in ("onnx/model.onnx", "tokenizer.json", "golden.safetensors"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"abc")
    return Bundle.write(folder, manifest())


@pytest.fixture
def signed(bundle: Bundle, keys: tuple[Path, Path]) -> Bundle:
    BundleSigner.open(keys[0]).sign(bundle)
    return bundle


def test_a_signed_bundle_verifies_and_its_files_are_as_they_were(signed: Bundle, keys: tuple[Path, Path]) -> None:
    assert signed.verify() == 3
    signing.check(signed, keys[1])


@pytest.mark.parametrize("curve", ["secp384r1", "secp521r1"])
def test_other_curves(bundle: Bundle, tmp_path: Path, curve: str) -> None:
    private, public = pair(tmp_path, curve)
    BundleSigner.open(private).sign(bundle)
    signing.check(bundle, public)


def test_the_standards_own_tool_verifies_ours(signed: Bundle, keys: tuple[Path, Path]) -> None:
    options = ["--signature", str(signed.path(SIGNATURE)), "--public_key", str(keys[1])]
    command = [*_TOOL, "verify", "key", *options, str(signed.folder)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    signed.path("onnx/model.onnx").write_bytes(b"abd")
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1


def test_we_verify_a_signature_of_the_standards_own_tool(bundle: Bundle, keys: tuple[Path, Path]) -> None:
    options = ["--signature", str(bundle.path(SIGNATURE)), "--private_key", str(keys[0]), "--no-ignore-git-paths"]
    subprocess.run([*_TOOL, "sign", "key", *options, str(bundle.folder)], check=True, capture_output=True)
    signing.check(bundle, keys[1])


def test_the_statement_names_the_model_and_every_other_file(signed: Bundle) -> None:
    import base64

    envelope = json.loads(signed.path(SIGNATURE).read_text())["dsseEnvelope"]
    statement = json.loads(base64.b64decode(envelope["payload"]))
    assert statement["subject"][0]["name"] == "tiny"
    names = {row["name"] for row in statement["predicate"]["resources"]}
    assert names == {"bundle.json", *signed.manifest.files}


def test_a_file_that_belongs_to_git_is_one_too_many(signed: Bundle, keys: tuple[Path, Path]) -> None:
    """The standard's tool leaves them out unless it is told not to."""
    signed.path(".gitignore").touch()
    with pytest.raises(UnsafeError, match=r"Extra files .*\.gitignore"):
        signing.check(signed, keys[1])


@pytest.mark.parametrize("name", ["bundle.json", "onnx/model.onnx", "tokenizer.json"])
def test_no_byte_may_change(signed: Bundle, keys: tuple[Path, Path], name: str) -> None:
    signed.path(name).write_bytes(signed.path(name).read_bytes() + b" ")
    with pytest.raises(UnsafeError, match=f"Hash mismatch for {name}$"):
        signing.check(signed, keys[1])


def test_a_bundle_made_anew_with_everything_consistent_is_not_signed(signed: Bundle, keys: tuple[Path, Path]) -> None:
    signed.path("onnx/model.onnx").write_bytes(b"evil")
    forged = Bundle.write(signed.folder, manifest())
    assert forged.verify() == 3
    with pytest.raises(UnsafeError, match=r"Hash mismatch for bundle\.json$"):
        signing.check(forged, keys[1])


def test_every_part_of_a_signature_counts(signed: Bundle, keys: tuple[Path, Path]) -> None:
    path = signed.path(SIGNATURE)
    whole = path.read_bytes()
    for at in range(0, len(whole), 97):
        spoiled = bytearray(whole)
        spoiled[at] ^= 1
        path.write_bytes(spoiled)
        try:
            signing.check(signed, keys[1])
        except UnsafeError:
            continue
        # What may change unnoticed is what no one reads: the JSON says the same.
        assert json.loads(spoiled)["dsseEnvelope"] == json.loads(whole)["dsseEnvelope"]


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"verificationMaterial": {}, "dsseEnvelope": {}}'])
def test_what_is_no_signature(signed: Bundle, keys: tuple[Path, Path], content: bytes) -> None:
    signed.path(SIGNATURE).write_bytes(content)
    with pytest.raises(UnsafeError, match="does not sign these files"):
        signing.check(signed, keys[1])


def test_another_key(signed: Bundle, tmp_path: Path) -> None:
    with pytest.raises(UnsafeError, match="Key mismatch"):
        signing.check(signed, pair(tmp_path)[1])


@pytest.mark.parametrize("how", ["missing", "link"])
def test_no_signature(bundle: Bundle, keys: tuple[Path, Path], how: str) -> None:
    if how == "link":
        bundle.path(SIGNATURE).symlink_to(bundle.path("tokenizer.json"))
        with pytest.raises(UnsafeError, match=r"model\.sig was added"):
            bundle.verify()
    with pytest.raises(UnsafeError, match="has no signature"):
        signing.check(bundle, keys[1])


def test_what_has_been_tampered_with_is_not_signed(bundle: Bundle, keys: tuple[Path, Path]) -> None:
    bundle.path("tokenizer.json").write_bytes(b"abd")
    with pytest.raises(UnsafeError, match=r"tokenizer\.json has changed"):
        BundleSigner.open(keys[0]).sign(bundle)
    assert not bundle.path(SIGNATURE).exists()


def test_keys_that_are_none(tmp_path: Path, keys: tuple[Path, Path], bundle: Bundle) -> None:
    rsa = tmp_path / "rsa.key"
    subprocess.run(["openssl", "genrsa", "-out", str(rsa), "2048"], check=True, capture_output=True)
    for path, reason in ((tmp_path / "none", "No such file"), (keys[1], "private key"), (rsa, "no key of a curve")):
        with pytest.raises(UsageError, match=reason):
            BundleSigner.open(path)
    for path, reason in ((tmp_path / "none", "No such file"), (keys[0], "no public key")):
        with pytest.raises(UsageError, match=reason):
            signing.check(bundle, path)


def test_an_encrypted_key(
    tmp_path: Path, keys: tuple[Path, Path], bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = tmp_path / "locked.key"
    options = ["-aes256", "-passout", "pass:secret", "-out", str(locked)]
    subprocess.run(["openssl", "ec", "-in", str(keys[0]), *options], check=True, capture_output=True)
    with pytest.raises(UsageError, match="EMBEDSHIP_KEY_PASSWORD"):
        BundleSigner.open(locked)
    monkeypatch.setenv("EMBEDSHIP_KEY_PASSWORD", "secret")
    BundleSigner.open(locked).sign(bundle)
    signing.check(bundle, keys[1])


def test_the_verb_signs(bundle: Bundle, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["sign", str(bundle.folder), "--key", str(keys[0]), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["fingerprint"] == bundle.fingerprint
    signing.check(bundle, keys[1])
    assert main.run(["sign", str(bundle.folder), "--key", str(keys[0])]) == 0, "again, with another signature"
    assert "signs 4 files" in capsys.readouterr().out


def test_verify_asked_for_a_signature_that_is_not_there(
    bundle: Bundle, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["verify", str(bundle.folder), "--key", str(keys[1]), "--json"]) == 4
    answer = json.loads(capsys.readouterr().out)
    assert answer["exit_code"] == 4
    assert "has no signature" in answer["error"]
