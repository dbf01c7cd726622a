"""Watch queries from beside the request path: sample, compare, report."""

import math
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from itertools import count
from threading import Event, Lock, Thread
from types import TracebackType
from typing import Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from embedship.monitor.cpu_budget import CpuBudget
from embedship.monitor.drift.detector import MINIMUM, STALE_SECONDS, DriftDetector, DriftReport, DriftRule
from embedship.monitor.drift.evidence import DriftEvidence
from embedship.monitor.drift.false_alarms import DEFAULT, FalseAlarms
from embedship.monitor.drift.live import LiveDrift
from embedship.monitor.drift.reference import DriftReference
from embedship.monitor.drift.window import CHARACTERS, QueryWindow
from embedship.monitor.errors import InvalidSetting
from embedship.monitor.failures import FailureCounter, MonitorPart
from embedship.monitor.recall.rolling import RecallBaseline, RecallMemory, RollingRecall
from embedship.monitor.recall.shadow import Exact, ShadowRecall, ShadowReport
from embedship.monitor.sample_queue import QuerySample, SampleQueue
from embedship.monitor.statistics import Mask

# What an evaluation needs of scipy takes half a second to load: a server is ready without it, and no query waits.
_LATER = ("scipy.stats", "scipy.spatial")


class ObserverReport(msgspec.Struct, frozen=True):
    """Everything the observer knows, at one moment."""

    seen: int  # queries shown to the observer
    dropped: int  # sampled queries that were not looked at: the queue was full, or closed
    evaluations: int
    evaluation_seconds: float  # total
    evaluated_at: float  # Unix time; 0 before the first evaluation
    interval_seconds: float  # between evaluations
    drift: DriftReport
    shadow: ShadowReport
    evidence: DriftEvidence


class QueryObserver:
    """Sample queries, test them for drift, and compare the index with an exact search.

    >>> with Observer(None, lambda vectors, k: np.tile(np.arange(k), (len(vectors), 1)), shadow_rate=1.0) as observer:
    ...     observer.saw(np.ones((1, 8), dtype=np.float32), np.array([[0, 1, 2, 3, 4, 5, 6, 7, 8, -1]]))
    ...     _ = observer.flush(timeout=10)
    >>> observer.report().shadow.recall.rolling
    0.9

    `observe` may be called from any thread. A daemon thread does the work; `exact` is called on that thread.
    """

    def __init__(
        self,
        reference: DriftReference | None,
        exact: Exact | None,
        *,
        fingerprint: str | None = None,
        variant: str | None = None,
        rule: DriftRule = DriftRule.CALIBRATED,
        false_alarms: FalseAlarms = DEFAULT,
        window: int = 1_000,
        minimum: int = MINIMUM,
        k: int = 10,
        baseline: RecallBaseline | None = None,
        sample_rate: float = 1.0,
        shadow_rate: float = 0.01,
        shadow_share: float = 1.0,
        capacity: int = 1_024,
        interval_seconds: float = 60.0,
        keep_texts: int = 0,
        seed: int = 0,
        faults: FailureCounter | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Sample each query for drift with sample_rate, and for recall with shadow_rate, independently.

        Exact searches may take shadow_share of a core. capacity bounds the queries that wait; interval_seconds lies
        between drift evaluations; keep_texts is how many drifted queries are named with their texts, 0 keeps no text
        at all. window, minimum, rule, false_alarms, variant and fingerprint go to DriftDetector, k and baseline to
        RollingRecall. Raises InvalidSetting.
        """
        rates = {"sample_rate": sample_rate, "shadow_rate": shadow_rate, "shadow_share": shadow_share}
        for name, rate in rates.items():
            if not 0 <= rate <= 1:
                raise InvalidSetting(name, rate, "a rate from 0 to 1")
        if capacity < 1:
            raise InvalidSetting("capacity", capacity, "at least 1")
        if interval_seconds <= 0:
            raise InvalidSetting("interval_seconds", interval_seconds, "seconds above 0")
        self.watches_drift, self.watches_recall = reference is not None, exact is not None
        self.faults = faults or FailureCounter()
        self._rates = (sample_rate, shadow_rate if exact else 0.0)
        self._interval = interval_seconds
        self._keep_texts = keep_texts
        self._clock = clock
        self._random = np.random.default_rng(seed)
        self._intake = SampleQueue(capacity)
        detector = DriftDetector(
            reference,
            fingerprint=fingerprint,
            variant=variant,
            window=window,
            minimum=minimum,
            rule=rule,
            false_alarms=false_alarms,
            interval_seconds=interval_seconds,
        )
        self._drift = LiveDrift(detector, reference, window, keep_texts)
        self._k = k
        self._recall = RollingRecall(k, baseline=baseline)
        self._shadow = ShadowRecall(exact, self._recall, CpuBudget(shadow_share)) if exact else None
        self._work = Lock()  # held while measuring: by the thread, and by whoever writes its memory down
        self._lock = Lock()  # held for a few assignments only: the request path takes it too
        self._calls = count(int(clock() * 1_000))  # goes on above those of the server before, when that is remembered
        self._seen = self._dropped = self._evaluations = 0
        self._evaluation_seconds = self._evaluated_at = 0.0
        self._checked = -math.inf  # drift is due as soon as the thread runs: that there is nothing to test is said then
        self._drift_report = self._drift.untested()
        self._shadow_report = ShadowReport(self._recall.report())
        self._evidence = DriftEvidence()
        self._thread: Thread | None = None

    def observe(
        self,
        vectors: NDArray[np.float32],
        ids: NDArray[np.int64] | None = None,
        texts: Sequence[str] | None = None,
        exact: Exact | None = None,
    ) -> None:
        """Take note of queries (n, d) and of what the index answered, ids (n, k), -1 for no hit.

        `exact` searches the index as it was when it answered, where it may be another by now: what it gains or loses
        meanwhile is no miss. None: the one that the observer was made with.

        Never blocks, never raises: what cannot be queued is dropped and counted. Queries that asked for fewer than k
        hits cannot give recall@k, and are sampled for drift only.
        """
        with self.faults.guard(MonitorPart.OBSERVE):
            rows, drift, recall = self._pick(len(vectors), ids)
            if not len(rows):
                return
            kept = rows[: self._intake.capacity]
            sampled = QuerySample(
                vectors=np.array(vectors[kept], dtype=np.float32),
                ids=None if ids is None else np.array(ids[kept], dtype=np.int64),
                drift=drift[kept],
                recall=recall[kept],
                at=self._clock(),
                call=next(self._calls) if len(vectors) > 1 else -1,
                texts=tuple(texts[row][:CHARACTERS] for row in kept)
                if texts is not None and self._keep_texts
                else None,
                exact=exact,
            )
            taken = len(kept) if self._intake.offer(sampled) else 0
            self._drop(len(rows) - taken)

    def start(self) -> Self:
        """Start the thread. Queries seen earlier are waiting for it, as far as they fitted."""
        if self._thread is None:
            self._thread = Thread(target=self._run, name="embedship-monitor", daemon=True)
            self._thread.start()
        return self

    def flush(self, timeout: float) -> bool:
        """Wait until everything seen so far is looked at and drift is evaluated. False if that took too long."""
        return self._intake.mark().wait(timeout)

    def close(self) -> None:
        """Stop: what still waits is dropped and counted (flush first to keep it), the thread is joined."""
        self._drop(self._intake.close())
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def report(self) -> ObserverReport:
        """Return what is known now: cheap enough for every scrape, and callable from any thread."""
        now = self._clock()
        with self._lock:
            recall = self._shadow_report.recall.aged(now, STALE_SECONDS)
            return ObserverReport(
                seen=self._seen,
                dropped=self._dropped,
                evaluations=self._evaluations,
                evaluation_seconds=self._evaluation_seconds,
                evaluated_at=self._evaluated_at,
                interval_seconds=self._interval,
                drift=self._drift_report,
                shadow=msgspec.structs.replace(self._shadow_report, recall=recall),
                evidence=self._evidence,
            )

    def memory(self) -> tuple[RecallMemory, QueryWindow | None]:
        """What `remember` takes; from any thread, but not from one that must not wait for an evaluation."""
        with self._work:
            return self._recall.memory(), self._drift.window()

    def remember(self, shadow: RecallMemory | None, window: QueryWindow | None) -> None:
        """Go on where another observer of the same model ended; before `start`. Raises InvalidVectors."""
        if shadow:
            self._recall.remember(shadow)
            self._shadow_report = msgspec.structs.replace(self._shadow_report, recall=self._recall.report())
        if window is not None:
            self._drift.extend(window)
            self._drift_report = self._drift.untested()

    def inherit(self, baseline: RecallBaseline) -> None:
        """Compare recall with that of an earlier index of the same model, if it was better; before `start`."""
        self._recall.inherit(baseline)
        self._shadow_report = msgspec.structs.replace(self._shadow_report, recall=self._recall.report())

    def _pick(self, n: int, ids: NDArray[np.int64] | None) -> tuple[NDArray[np.intp], Mask, Mask]:
        """Draw rows of a call of n queries; both draws are always made, so that a seed gives one sequence."""
        with self._lock:
            self._seen += n
            draws = self._random.random((n, 2))
        drift, recall = draws[:, 0] < self._rates[0], draws[:, 1] < self._rates[1]
        if ids is None or ids.shape[1] < self._k:
            recall[:] = False
        return np.flatnonzero(drift | recall), drift, recall

    def _drop(self, queries: int) -> None:
        with self._lock:
            self._dropped += queries

    def _run(self) -> None:
        if self.watches_drift:
            self._prepare()
        while not self._intake.closed:
            # What was taken is let go before its marks are set: nobody waits who still holds a batch.
            for mark in self._look_at(self._intake.take(self._patience())):
                mark.set()

    def _look_at(self, taken: Sequence[QuerySample | Event]) -> list[Event]:
        """Measure what was taken, evaluate when that is due or asked for, and return the marks among it."""
        self._measure([each for each in taken if isinstance(each, QuerySample)])
        marks = [each for each in taken if isinstance(each, Event)]
        if marks or self._patience() == 0:
            with self._work:
                self._evaluate()
        return marks

    def _prepare(self) -> None:
        """What takes seconds, before the first query is looked at: those that come meanwhile wait in the queue."""
        for module in _LATER:
            import_module(module)
        with self._work, self.faults.guard(MonitorPart.DRIFT):
            self._drift.prepare()

    def _patience(self) -> float:
        """Seconds until drift is due; a clock that was set back makes it due at once."""
        elapsed = self._clock() - self._checked
        return self._interval - elapsed if 0 <= elapsed < self._interval else 0.0

    def _measure(self, sampled: Sequence[QuerySample]) -> None:
        if not sampled:
            return
        with self._work:
            try:
                self._drift.add(sampled)
            except Exception:  # what is wrong with one of them is no fault of the others
                for each in sampled:
                    with self.faults.guard(MonitorPart.DRIFT):
                        self._drift.add([each])
        for each in sampled:
            if self._shadow and each.ids is not None and each.recall.any():
                with self._work:
                    self._compare(self._shadow, each, each.ids)

    def _compare(self, shadow: ShadowRecall, sampled: QuerySample, ids: NDArray[np.int64]) -> None:
        with self.faults.guard(MonitorPart.RECALL):
            shadow.compare(sampled.vectors[sampled.recall], ids[sampled.recall], sampled.at, sampled.exact)
        with self._lock:
            self._shadow_report = shadow.report()

    def _evaluate(self) -> None:
        began = time.perf_counter()
        self._checked = self._clock()
        with self.faults.guard(MonitorPart.DRIFT):
            report = self._drift.evaluate(self._checked)
            with self._lock:
                self._drift_report = report
                self._evaluations += 1
                self._evaluated_at = self._checked
        with self.faults.guard(MonitorPart.EVIDENCE):
            evidence = self._drift.evidence(self._drift_report.state)
            with self._lock:
                self._evidence = evidence
        with self._lock:
            self._evaluation_seconds += time.perf_counter() - began
