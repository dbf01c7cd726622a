"""The verb `check`: does the server at an address answer with the vectors of this bundle's checkpoint?

It asks as a client does, over HTTP, and computes nothing itself: for `helm test`, CronJobs and canaries.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import typer
from rich.console import Console

from embedship.bundle import Bundle, Precision
from embedship.bundle import ModelSpec as Model
from embedship.codes import cosine
from embedship.errors import GateError, MismatchError, UsageError
from embedship.golden_texts import GoldenTexts
from embedship.serve import schemas
from embedship.serve.client import ServerClient


class CheckReport(msgspec.Struct, frozen=True):
    """What the server's vectors of the golden texts were worth."""

    url: str
    fingerprint: str
    variant: str
    precision: str
    texts: int
    cosine_minimum: float
    cosine_mean: float


def check(
    url: Annotated[str, typer.Argument(metavar="URL", help="Address of the server, such as http://127.0.0.1:8080.")],
    bundle: Annotated[Path, typer.Option("--bundle", help="The bundle it should serve.")],
    api_key_file: Annotated[
        Path | None,
        typer.Option("--api-key-file", help="API keys, one a line; the first is sent (default: EMBEDSHIP_API_KEYS)."),
    ] = None,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, max=600, help="Seconds an answer may take.")] = 30.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Ask a running server for the vectors of the golden texts, and compare them with the checkpoint's.

    Exits 3 when they are not those of the checkpoint, 4 when the server serves another bundle, 1 without an answer.
    """
    result = _check(ServerClient(url, api_key_file, timeout), Bundle.open(bundle))
    if as_json:
        typer.echo(msgspec.json.encode(result).decode())
        return
    Console(highlight=False).print(
        f"{url} serves {result.fingerprint[:12]} as {result.variant}: {result.texts} golden texts, cosine to the "
        f"checkpoint min {result.cosine_minimum:.5f}, mean {result.cosine_mean:.5f}",
        soft_wrap=True,
        markup=False,
    )


def _check(ask: ServerClient, bundle: Bundle) -> CheckReport:
    info = ask("/info", schemas.Info)
    if info.fingerprint != bundle.fingerprint:
        raise MismatchError(
            f"{ask.url} serves {info.model_id}, fingerprint {info.fingerprint[:12]}, and the bundle has "
            f"{bundle.fingerprint[:12]}: deploy this bundle, or check with the other"
        )
    golden, options = GoldenTexts.load(bundle), _plain(bundle.manifest.pipeline)
    texts, expected = golden.real, golden.vectors[-len(golden.real) :]
    rows = [ask("/embed", list[list[float]], {"inputs": [text], **options})[0] for text in texts]
    cosines = cosine(expected, np.asarray(rows, dtype=np.float32))
    result = CheckReport(
        ask.url, info.fingerprint, info.variant, info.precision, len(texts), float(cosines.min()), float(cosines.mean())
    )
    floors = bundle.manifest.floors[Precision(info.precision)]
    # `not >=` and never `<`: a NaN must fail.
    if not (result.cosine_minimum >= floors.minimum and result.cosine_mean >= floors.mean):
        raise GateError(
            f"{ask.url} answers with wrong vectors: cosine to the checkpoint is min {result.cosine_minimum:.5f}, mean "
            f"{result.cosine_mean:.5f}; the bundle demands {floors.minimum} and {floors.mean}. Take it out of service."
        )
    return result


def _plain(model: Model) -> dict[str, str]:
    """Golden vectors are of bare texts: name a prompt that is empty where the model puts another before each text."""
    if not model.default_prompt or not model.prompts[model.default_prompt]:
        return {}
    for name, text in model.prompts.items():
        if not text:
            return {"prompt_name": name}
    raise UsageError(
        f"this model puts its prompt {model.default_prompt!r} before every text, so its golden texts cannot be asked "
        "for over HTTP: run `embedship verify BUNDLE` where it is served"
    )
