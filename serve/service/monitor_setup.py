"""Monitor setup: builds the monitor of a server from its settings, bundle and index."""

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

PROBES = "probes.jsonl"  # next to the index folder; used if --probes is not given
MAX_PROBES = 10_000


def build_monitor(
    settings: Settings,
    encoder: Encoder,
    collection: Collection | None,
    canary_target: CanaryTarget,
    comparison: CandidateComparison | None = None,
    reranker: Reranker | None = None,
    before: QualityMonitor | None = None,
) -> QualityMonitor:
    """Build the monitor. `before` is the monitor that it replaces in a running server.

    A saved state that cannot be restored is only logged. Raises UsageError, UnsafeError, MismatchError.
    """
    path = _probe_file(settings)
    monitor = QualityMonitor(
        encoder.bundle.fingerprint,
        _observer(settings, encoder.bundle, encoder.variant.name, collection),
        _canary(settings, encoder, canary_target, reranker),
        probes=_probes(settings, path, collection) if path and collection else None,
        feedback=FeedbackRecall(settings.keep_answers, settings.keep_queries) if collection else None,
        comparison=comparison,
        index=collection.backend.manifest.digest if collection else "",
        probe_digest=sha256_of(path) if path else "",
        folder=_folder(settings.state_dir),
    )
    monitor.restore(before)
    return monitor


def _observer(settings: Settings, bundle: Bundle, variant: str, collection: Collection | None) -> QueryObserver:
    return QueryObserver(
        references.find(bundle, settings.reference),
        collection.backend.exact if collection else None,
        fingerprint=bundle.fingerprint,
        variant=variant,
        baseline=collection.baseline if collection else None,
        sample_rate=settings.sample_rate,
        shadow_rate=settings.shadow_rate,
        shadow_share=settings.shadow_share,
        interval_seconds=settings.drift_interval_seconds,
        false_alarms=FalseAlarms.parse(settings.false_alarms),
        keep_texts=settings.keep_queries,
    )


def _canary(
    settings: Settings, encoder: Encoder, canary_target: CanaryTarget, reranker: Reranker | None
) -> CanaryMonitor:
    seconds = settings.canary_interval_seconds
    devices = canary_target.workers.devices
    canary = CanaryMonitor(canary_target.texts.vectors, devices, golden_floor=_floor(encoder), interval_seconds=seconds)
    if reranker:
        target, likeness = reranker.model.canary_target, partial(similarity, Task.RERANK)
        canary.add_devices(target.texts.vectors, target.workers.devices, _floor(reranker.model.encoder), likeness)
    return canary


def _floor(encoder: Encoder) -> float:
    return encoder.bundle.manifest.floors[encoder.engine.precision].minimum


def _probe_file(settings: Settings) -> Path | None:
    if settings.index is None:
        if settings.probes is not None:
            raise UsageError("--probes needs an index to search: also give --index INDEX")
        return None
    default = settings.index.parent / PROBES if isinstance(settings.index, Path) else None
    return settings.probes or (default if default and default.is_file() else None)


def _probes(settings: Settings, path: Path, collection: Collection) -> ProbeRecall:
    queries = list(jsonl.read(path, LabelledProbe))
    if len(queries) > MAX_PROBES:
        raise UsageError(
            f"{path} contains {len(queries)} labelled queries; the maximum is {MAX_PROBES}: use a sample of them"
        )
    probes = ProbeRecall(queries, baseline=settings.probe_baseline, interval_seconds=settings.probe_interval_seconds)
    probes.missing = len(probes.labels) - len(collection.backend.resolve_ids(probes.labels))
    return probes


def _folder(path: Path | None) -> Path | None:
    if path is not None:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--state-dir {path} cannot be created ({error.strerror}): give another folder") from None
    return path
