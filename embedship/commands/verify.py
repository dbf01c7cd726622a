"""Command `verify`: checks that a bundle is unchanged, and that it still gives the same vectors on this machine."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.table import Table

from embedship import golden, hardware, shapes, terminal, variant_choice
from embedship.bundle import SIGNATURE, Bundle, Precision, ShapeCertificate
from embedship.commands.options import BundleArgument, JsonOption
from embedship.encoder import Encoder


class SignatureState(StrEnum):
    """Whether a bundle is signed, and whether that was checked."""

    NO = "none"
    UNCHECKED = "not checked"
    VALID = "valid"


class VariantCheck(msgspec.Struct, frozen=True):
    """Result of one variant on this machine: its golden texts and its batch shapes."""

    variant: str
    precision: Precision
    texts: int
    cosine_minimum: float
    cosine_mean: float
    cosine_alone: float
    shapes: ShapeCertificate


def verify(
    bundle: BundleArgument,
    variant: Annotated[
        str | None, typer.Option(help="The variant to run (default: the one chosen for this machine).")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Run every variant that is made for this machine.")] = False,
    key: Annotated[
        Path | None,
        typer.Option("--key", help="Public key, PEM: the bundle must have a signature by its private half."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Hash every file of a bundle, check its signature, run its golden texts, and run every batch shape.

    Batch shapes with wrong vectors are reported, stored next to the bundle (or in EMBEDSHIP_CACHE), and not used.

    Exits 4 if a file is missing, changed or added, or the signature is missing or wrong, and 3 if the vectors differ
    from the checkpoint's.
    """
    opened = Bundle.open(bundle)
    files = opened.verify()
    signature = _check_signature(opened, key)
    names = [v.name for v in opened.variants] if every else [variant_choice.variant(opened, variant).name]
    skipped = _skipped(opened) if every else {}
    results = [_run(opened, name) for name in names if name not in skipped]
    if as_json:
        answer = {"fingerprint": opened.fingerprint, "files": files, "signature": signature, "variants": results}
        answer["skipped"] = skipped
        typer.echo(msgspec.json.encode({"bundle": str(bundle), **answer}).decode())
        return
    console = terminal.output()
    console.print(f"{bundle}: {files} files are as exported, fingerprint {opened.fingerprint[:12]}")
    console.print(SIGNATURE_MESSAGES[signature])
    console.print(_table(results))
    for r in results:
        console.print(
            f"{r.variant}: {shapes.describe_certificate(r.shapes)} ({r.shapes.runtime}, {r.shapes.seconds:.1f} s)"
        )
    for name, needs in skipped.items():
        console.print(f"{name} was not run: it needs {needs}, which this machine does not have", soft_wrap=True)


def _skipped(bundle: Bundle) -> dict[str, str]:
    """Return the variants that are not made for this machine, and what they need."""
    machine = hardware.machine()
    return {v.name: " or ".join(v.needs) for v in bundle.variants if not machine.meets(v.needs)}


SIGNATURE_MESSAGES = {
    SignatureState.NO: "It is not signed.",
    SignatureState.UNCHECKED: f"It has a signature ({SIGNATURE}) that was not checked: give the public key with --key.",
    SignatureState.VALID: "Its signature is valid for the given key.",
}


def _check_signature(bundle: Bundle, key: Path | None) -> SignatureState:
    if key is None:
        return SignatureState.UNCHECKED if bundle.path(SIGNATURE).exists() else SignatureState.NO
    from embedship.bundle import signing

    signing.check(bundle, key)
    return SignatureState.VALID


def _run(bundle: Bundle, variant: str) -> VariantCheck:
    with Encoder.open(bundle, variant, task=None) as encoder:
        subject = shapes.CertificateSubject.from_encoder(encoder)
        certificate = shapes.certify(subject)
        shapes.store(encoder, certificate)
        encoder.restrict(shapes.require(certificate, subject.layout, variant), certificate)
        result = golden.check(encoder)
        return VariantCheck(
            variant=variant,
            precision=encoder.engine.precision,
            texts=result.texts,
            cosine_minimum=result.minimum,
            cosine_mean=result.mean,
            cosine_alone=result.alone,
            shapes=certificate,
        )


def _table(results: list[VariantCheck]) -> Table:
    table = Table(
        caption="Cosines of the golden texts. min, mean: to the vectors of the checkpoint. "
        "alone: between a text encoded alone and in a batch."
    )
    for heading in ("variant", "runs as", "texts", "min", "mean", "alone"):
        table.add_column(heading, justify="left" if heading in ("variant", "runs as") else "right")
    for r in results:
        cosines = (f"{x:.6f}" for x in (r.cosine_minimum, r.cosine_mean, r.cosine_alone))
        table.add_row(r.variant, r.precision, str(r.texts), *cosines)
    return table
