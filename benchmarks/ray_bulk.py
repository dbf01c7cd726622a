"""Cost of Ray on one machine: `embedship encode --ray local` against the same command without --ray, in alternation.

Both use the same devices: all cores of the machine in one encoder with one stream per core. Each run is a separate
process with an empty output folder, and both must write identical bytes. The goal applies to the encoding time, which
dominates long runs. The seconds until the first text are a fixed cost per run and are shown separately.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import bundled
import record
from rich.console import Console
from rich.table import Table

from embedship import stdlib_docs

WORK = Path(__file__).parents[1] / ".bench"
GOAL = 1.10  # maximum ratio to the seconds without Ray
COPIES, QUICK_TEXTS = 3, 200  # copies of the corpus, each text with a different number in front

console = Console(width=110)


class Run(NamedTuple):
    """`encoding`: seconds from the first text to the last. `command`: seconds of the whole command."""

    encoding: float
    command: float
    tokens: int


def main() -> None:
    options = _arguments()
    WORK.mkdir(exist_ok=True)
    bundle = options.bundle or bundled.made(WORK)
    source, texts = _source(options.quick)
    ways: dict[str, list[str]] = {"plain": [], "ray": ["--ray", "local"]}
    runs: dict[str, list[Run]] = {way: [] for way in ways}
    for turn in range(options.rounds + 1):
        took = {
            way: _run(bundle, source, WORK / f"ray-{way}", [*more, *_shards(options.quick)])
            for way, more in ways.items()
        }
        _require_same(*(WORK / f"ray-{way}" for way in ways))
        counts = turn > 0 or options.quick
        for way, run in took.items():
            console.print(
                f"round {turn}, {way}: {run.encoding:.1f} s of encoding, {run.command:.1f} s in all"
                + ("" if counts else " (warm-up)")
            )
            if counts:
                runs[way].append(run)
    result = record.circumstances() | {
        "benchmark": "ray_bulk",
        "quick": options.quick,
        "corpus": {"texts": texts, "tokens": runs["plain"][0].tokens, "source": stdlib_docs.origin()},
        **{way: _figures(each) for way, each in runs.items()},
    }
    result["versions"]["ray"] = version("ray")
    pairs = list(zip(runs["ray"], runs["plain"], strict=True))
    result["ratio"] = record.spread([ray.encoding / plain.encoding for ray, plain in pairs])
    result["more_seconds_a_run"] = record.spread(
        [(ray.command - ray.encoding) - (plain.command - plain.encoding) for ray, plain in pairs]
    )
    result["goals"] = {
        "ray": {"value": result["ratio"]["median"], "goal": GOAL, "met": result["ratio"]["median"] <= GOAL}
    }
    _print(result)
    record.keep("ray_bulk", result)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of both, after one warm-up round")
    parser.add_argument("--quick", action="store_true", help="smoke test on 200 texts; the figures are meaningless")
    parser.add_argument("--bundle", type=Path, help="bundle of all-MiniLM-L6-v2 (default: exported by this run)")
    options = parser.parse_args()
    options.rounds = 0 if options.quick else options.rounds
    return options


def _source(quick: bool) -> tuple[Path, int]:
    """Write the corpus: several copies of Python's documentation."""
    bodies = [entry.body for entry in (stdlib_docs.entries(QUICK_TEXTS) if quick else stdlib_docs.entries())]
    texts = bodies if quick else [f"{copy} {body}" for copy in range(COPIES) for body in bodies]
    path = WORK / "ray.jsonl"
    path.write_text("".join(json.dumps({"id": f"{number}", "text": text}) + "\n" for number, text in enumerate(texts)))
    return path, len(texts)


def _shards(quick: bool) -> list[str]:
    """Return several shards, so that one is read, tokenised and written while another is computed, as in a long run."""
    return ["--shard-texts", "50" if quick else "512"]


def _run(bundle: Path, source: Path, out: Path, more: list[str]) -> Run:
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-P", "-m", "embedship", "encode", str(bundle), str(source), "--out", str(out), "--json"]
    began = time.perf_counter()
    # Not from the checkout: its folder embedship/ lacks the other packages.
    answer = subprocess.run([*command, *more], capture_output=True, text=True, cwd=WORK, check=False)
    took = time.perf_counter() - began
    if answer.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {answer.stderr.strip()}")
    report = json.loads(answer.stdout.splitlines()[-1])
    return Run(report["seconds"], took, report["tokens"])


def _require_same(*folders: Path) -> None:
    contents = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders]
    if contents[0] != contents[1]:
        raise SystemExit(f"{folders[0]} and {folders[1]} differ: the output with Ray must equal the output without it")


def _figures(runs: list[Run]) -> dict[str, Any]:
    return {
        "tokens_per_second": record.spread([run.tokens / run.encoding for run in runs]),
        "encoding_seconds": record.spread([run.encoding for run in runs]),
        "command_seconds": record.spread([run.command for run in runs]),
    }


def _print(result: dict[str, Any]) -> None:
    machine = result["machine"]
    table = Table(title=f"{result['corpus']['tokens']:,} tokens on {machine['cpu']}, {machine['cores']:g} cores")
    for heading in ("encode", "tokens/s", "lowest..highest", "whole command, s"):
        table.add_column(heading, justify="left" if heading == "encode" else "right")
    for way in ("plain", "ray"):
        speed, whole = result[way]["tokens_per_second"], result[way]["command_seconds"]
        span = f"{speed['lowest']:,.0f}..{speed['highest']:,.0f}"
        table.add_row(way, f"{speed['median']:,.0f}", span, f"{whole['median']:.1f}")
    console.print(table)
    goal, more = result["goals"]["ray"], result["more_seconds_a_run"]["median"]
    console.print(
        f"Ray takes {goal['value']:.3f} times the seconds of encoding (goal: at most {goal['goal']}, "
        f"{'met' if goal['met'] else 'missed'}), and {more:.1f} s a run to start and end"
    )


if __name__ == "__main__":
    main()
