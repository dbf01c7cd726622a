"""The verb `verify`: is this folder still what was exported, and does it still give the same vectors here?"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from embedship import golden, hardware, shapes, variant_choice
from embedship.bundle import SIGNATURE, Bundle, Precision, ShapeCertificate
from embedship.encoder import Encoder


class SignatureState(StrEnum):
    """What is known of a bundle's signature."""

    NO = "none"
    UNCHECKED = "not checked"
    VALID = "valid"


class VariantCheck(msgspec.Struct, frozen=True):
    """What one variant did on this machine with the golden texts, and in every shape of batch."""

    variant: str
    precision: Precision
    texts: int
    cosine_minimum: float
    cosine_mean: float
    cosine_alone: float
    shapes: ShapeCertificate


def verify(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle folder.")],
    variant: Annotated[
        str | None, typer.Option(help="The variant to run (default: the one chosen for this machine).")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Run every variant that is for this machine.")] = False,
    key: Annotated[
        Path | None,
        typer.Option("--key", help="Public key, PEM: the bundle must carry a signature by its private half."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Re-hash every file of a bundle, check its signature, re-run its golden texts, and run every shape of batch.

    Shapes that are wrong here are named, stored beside the bundle (or in EMBEDSHIP_CACHE), and used no more.

    Exits 4 when a file is missing, changed or added, or the signature is missing or wrong, and 3 when the vectors are
    no longer those of the checkpoint.
    """
    opened = Bundle.open(bundle)
    files = opened.verify()
    signed = _signed(opened, key)
    names = [v.name for v in opened.manifest.variants] if every else [variant_choice.variant(opened, variant).name]
    skipped = _skipped(opened) if every else {}
    results = [_run(opened, name) for name in names if name not in skipped]
    if as_json:
        found = {"fingerprint": opened.fingerprint, "files": files, "signature": signed, "variants": results}
        found["skipped"] = skipped
        typer.echo(msgspec.json.encode({"bundle": str(bundle), **found}).decode())
        return
    console = Console()
    console.print(f"{bundle}: {files} files are as exported, fingerprint {opened.fingerprint[:12]}")
    console.print(_SIGNED[signed])
    console.print(_table(results))
    for r in results:
        console.print(f"{r.variant}: {shapes.remark(r.shapes)} ({r.shapes.runtime}, {r.shapes.seconds:.1f} s)")
    for name, needs in skipped.items():
        console.print(f"{name} was not run: it is for {needs}, which this machine has not", soft_wrap=True)


def _skipped(bundle: Bundle) -> dict[str, str]:
    """What was not verified for this machine, and what it is for."""
    here = hardware.machine()
    return {v.name: " or ".join(v.needs) for v in bundle.manifest.variants if not here.meets(v.needs)}


_SIGNED = {
    SignatureState.NO: "It is not signed.",
    SignatureState.UNCHECKED: f"It carries a signature ({SIGNATURE}), which was not checked: give the public key with --key.",  # noqa: E501
    SignatureState.VALID: "Its signature is valid for the key given.",
}


def _signed(bundle: Bundle, key: Path | None) -> SignatureState:
    if key is None:
        return SignatureState.UNCHECKED if bundle.path(SIGNATURE).exists() else SignatureState.NO
    from embedship.bundle import signing

    signing.check(bundle, key)
    return SignatureState.VALID


def _run(bundle: Bundle, variant: str) -> VariantCheck:
    with Encoder.open(bundle, variant, task=None) as encoder:
        subject = shapes.CertificateSubject.of(encoder)
        certified = shapes.certify(subject)
        shapes.keep(encoder, certified)
        encoder.restrict(shapes.require(certified, subject.layout, variant), certified)
        result = golden.check(encoder)
        return VariantCheck(
            variant=variant,
            precision=encoder.engine.precision,
            texts=result.texts,
            cosine_minimum=result.minimum,
            cosine_mean=result.mean,
            cosine_alone=result.alone,
            shapes=certified,
        )


def _table(results: list[VariantCheck]) -> Table:
    table = Table(caption="cosine of the golden texts: to the checkpoint, and alone against in a batch")
    for heading in ("variant", "runs as", "texts", "min", "mean", "alone"):
        table.add_column(heading, justify="left" if heading in ("variant", "runs as") else "right")
    for r in results:
        cosines = (f"{x:.6f}" for x in (r.cosine_minimum, r.cosine_mean, r.cosine_alone))
        table.add_row(r.variant, r.precision, str(r.texts), *cosines)
    return table
