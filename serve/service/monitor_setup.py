"""Settings, bundle and index -> the monitor of one server, ready to start."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from embedship.bundle import Bundle, Task
from embedship.encoder import Encoder
from embedship.errors import UsageError
from embedship.files import jsonl
from embedship.files.sealed import sha256_of
from embedship.likeness import similarity
from embedship.monitor.canary import CanaryMonitor
from embedship.monitor.drift.false_alarms import FalseAlarms
from embedship.monitor.monitor import QualityMonitor
from embedship.monitor.observer import QueryObserver
from embedship.monitor.recall.candidate import CandidateComparison
from embedship.monitor.recall.feedback import FeedbackRecall
from embedship.monitor.recall.probes import LabelledProbe, ProbeRecall
from embedship.serve.offline import references
from embedship.serve.service.canaries import CanaryTarget
from embedship.serve.service.collection import Collection
from embedship.serve.service.reranker import Reranker
from embedship.serve.settings import Settings

PROBES = "probes.jsonl"  # beside the index folder, where --probes names no other file
MOST_PROBES = 10_000


def build_monitor(
    settings: Settings,
    encoder: Encoder,
    shelf: Collection | None,
    choir: CanaryTarget,
    comparison: CandidateComparison | None = None,
    reranker: Reranker | None = None,
    before: QualityMonitor | None = None,
) -> QualityMonitor:
    """`before` is the monitor that this one replaces in a running server.

    Raises UsageError, UnsafeError, MismatchError; a snapshot that cannot be taken up is only a warning."""
    path = _probe_file(settings)
    watched = QualityMonitor(
        encoder.bundle.fingerprint,
        _observer(settings, encoder.bundle, encoder.variant.name, shelf),
        _canary(settings, encoder, choir, reranker),
        probes=_probes(settings, path, shelf) if path and shelf else None,
        feedback=FeedbackRecall(settings.keep_answers, settings.keep_queries) if shelf else None,
        comparison=comparison,
        index=shelf.store.manifest.digest if shelf else "",
        probe_digest=sha256_of(path) if path else "",
        folder=_folder(settings.state_dir),
    )
    watched.restore(before)
    return watched


def _observer(settings: Settings, bundle: Bundle, variant: str, shelf: Collection | None) -> QueryObserver:
    return QueryObserver(
        references.find(bundle, settings.reference),
        shelf.exact if shelf else None,
        fingerprint=bundle.fingerprint,
        variant=variant,
        baseline=shelf.baseline if shelf else None,
        sample_rate=settings.sample_rate,
        shadow_rate=settings.shadow_rate,
        shadow_share=settings.shadow_share,
        interval_seconds=settings.drift_interval_seconds,
        false_alarms=FalseAlarms.parse(settings.false_alarms),
        keep_texts=settings.keep_queries,
    )


def _canary(settings: Settings, encoder: Encoder, choir: CanaryTarget, reranker: Reranker | None) -> CanaryMonitor:
    seconds = settings.canary_interval_seconds
    devices = choir.workers.devices
    canary = CanaryMonitor(choir.songs.vectors, devices, golden_floor=_floor(encoder), interval_seconds=seconds)
    if reranker:
        scores, alike = reranker.running.choir, partial(similarity, Task.RERANK)
        canary.join(scores.songs.vectors, scores.workers.devices, _floor(reranker.running.encoder), alike)
    return canary


def _floor(encoder: Encoder) -> float:
    return encoder.bundle.manifest.floors[encoder.engine.precision].minimum


def _probe_file(settings: Settings) -> Path | None:
    if settings.index is None:
        if settings.probes is not None:
            raise UsageError("--probes needs an index to search: give --index INDEX, too")
        return None
    beside = settings.index.parent / PROBES if isinstance(settings.index, Path) else None
    return settings.probes or (beside if beside and beside.is_file() else None)


def _probes(settings: Settings, path: Path, shelf: Collection) -> ProbeRecall:
    found = list(jsonl.read(path, LabelledProbe))
    if len(found) > MOST_PROBES:
        raise UsageError(f"{path} holds {len(found)} probes, at most {MOST_PROBES} can be replayed: take a sample")
    probes = ProbeRecall(found, baseline=settings.probe_baseline, interval_seconds=settings.probe_interval_seconds)
    probes.missing = len(probes.labels) - len(shelf.resolve_ids(probes.labels))
    return probes


def _folder(path: Path | None) -> Path | None:
    if path is not None:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--state-dir {path} cannot be made ({error.strerror}): give another folder") from None
    return path
