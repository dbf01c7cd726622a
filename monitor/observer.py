"""QueryObserver: samples live queries outside the request path, tests them for drift and measures recall."""

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

# Loading these takes half a second. The observer's thread loads them, so that neither startup nor a query waits.
_LATER = ("scipy.stats", "scipy.spatial")


class ObserverReport(msgspec.Struct, frozen=True):
    """Everything the observer knows at one time."""

    seen: int  # queries shown to the observer
    dropped: int  # sampled queries that were not examined because the queue was full or closed
    evaluations: int
    evaluation_seconds: float  # total
    evaluated_at: float  # Unix time; 0 before the first evaluation
    interval_seconds: float  # between evaluations
    drift: DriftReport
    shadow: ShadowReport
    evidence: DriftEvidence


class QueryObserver:
    """Samples queries, tests them for drift, and compares the answers of the index with an exact search.

    >>> def exact(vectors, k):
    ...     return np.tile(np.arange(k), (len(vectors), 1))
    >>> with QueryObserver(None, exact, shadow_rate=1.0) as observer:
    ...     observer.observe(np.ones((1, 8), dtype=np.float32), np.array([[0, 1, 2, 3, 4, 5, 6, 7, 8, -1]]))
    ...     _ = observer.flush(timeout=10)
    >>> observer.report().shadow.recall.rolling
    0.9

    `observe` may be called from any thread. A daemon thread does the work and calls `exact`.
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
        """Sample each query for drift with sample_rate and for recall with shadow_rate, independently.

        Exact searches may use shadow_share of one core. capacity limits the number of queued queries. Drift is
        evaluated every interval_seconds. keep_texts is the number of drifted queries listed with their texts; with 0
        no text is kept. window, minimum, rule, false_alarms, variant and fingerprint are passed to DriftDetector, k
        and baseline to RollingRecall. Raises InvalidSetting.
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
        self._work = Lock()  # held while measuring, and while the state is copied for a snapshot
        self._lock = Lock()  # held for a few assignments only, because the request path also acquires it
        self._calls = count(int(clock() * 1_000))  # larger than the numbers in a window restored from an earlier server
        self._seen = self._dropped = self._evaluations = 0
        self._evaluation_seconds = self._evaluated_at = 0.0
        self._checked = -math.inf  # the first evaluation is due at once: it reports why nothing can be tested yet
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
        """Record queries (n, d) and the ids (n, k) that the index answered; -1 means no hit.

        `exact` searches the index as it was when it answered, if the index can change: rows added or removed since
        then must not count as misses. None: the function given to the constructor.

        Never blocks and never raises. Queries that do not fit into the queue are dropped and counted. Queries that
        asked for fewer than k hits cannot give recall@k and are sampled for drift only.
        """
        with self.faults.guard(MonitorPart.OBSERVE):
            rows, drift, recall = self._pick(len(vectors), ids)
            if not len(rows):
                return
            fitting = rows[: self._intake.capacity]
            sampled = QuerySample(
                vectors=np.array(vectors[fitting], dtype=np.float32),
                ids=None if ids is None else np.array(ids[fitting], dtype=np.int64),
                drift=drift[fitting],
                recall=recall[fitting],
                at=self._clock(),
                call=next(self._calls) if len(vectors) > 1 else -1,
                texts=tuple(texts[row][:CHARACTERS] for row in fitting)
                if texts is not None and self._keep_texts
                else None,
                exact=exact,
            )
            queued = len(fitting) if self._intake.offer(sampled) else 0
            self._drop(len(rows) - queued)

    def start(self) -> Self:
        """Start the thread. Queries observed earlier are already in its queue, as far as they fitted."""
        if self._thread is None:
            self._thread = Thread(target=self._run, name="embedship-monitor", daemon=True)
            self._thread.start()
        return self

    def flush(self, timeout: float) -> bool:
        """Wait until all queries observed so far are processed and drift is evaluated. Return False on timeout."""
        return self._intake.mark().wait(timeout)

    def close(self) -> None:
        """Stop and join the thread. Queued queries are dropped and counted; call `flush` first to process them."""
        self._drop(self._intake.close())
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def report(self) -> ObserverReport:
        """Return the current results. Cheap enough for every scrape; may be called from any thread."""
        now = self._clock()
        with self._lock:
            recall = self._shadow_report.recall.expire(now, STALE_SECONDS)
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
        """Return the state that `restore` accepts. Any thread may call it, but it waits for a running evaluation."""
        with self._work:
            return self._recall.memory(), self._drift.window()

    def restore(self, shadow: RecallMemory | None, window: QueryWindow | None) -> None:
        """Continue from the state of another observer of the same model, before `start`. Raises InvalidVectors."""
        if shadow:
            self._recall.restore(shadow)
            self._shadow_report = msgspec.structs.replace(self._shadow_report, recall=self._recall.report())
        if window is not None:
            self._drift.extend(window)
            self._drift_report = self._drift.untested()

    def inherit(self, baseline: RecallBaseline) -> None:
        """Use the recall baseline of an earlier index of the same model if it is better. Call it before `start`."""
        self._recall.inherit(baseline)
        self._shadow_report = msgspec.structs.replace(self._shadow_report, recall=self._recall.report())

    def _pick(self, n: int, ids: NDArray[np.int64] | None) -> tuple[NDArray[np.intp], Mask, Mask]:
        """Choose rows of a call of n queries. Both random draws are always made, so that a seed gives one sequence."""
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
            # The batch is released before the waiters are signalled: after `flush` its memory is free.
            for mark in self._process(self._intake.take(self._seconds_until_due())):
                mark.set()

    def _process(self, items: Sequence[QuerySample | Event]) -> list[Event]:
        """Measure the samples, evaluate drift if that is due or a flush waits, and return the flush events."""
        self._measure([each for each in items if isinstance(each, QuerySample)])
        marks = [each for each in items if isinstance(each, Event)]
        if marks or self._seconds_until_due() == 0:
            with self._work:
                self._evaluate()
        return marks

    def _prepare(self) -> None:
        """Do the slow preparation (seconds) before the first query is processed. New queries wait in the queue."""
        for module in _LATER:
            import_module(module)
        with self._work, self.faults.guard(MonitorPart.DRIFT):
            self._drift.prepare()

    def _seconds_until_due(self) -> float:
        """Return the seconds until the next drift evaluation: 0 if the clock was set back."""
        elapsed = self._clock() - self._checked
        return self._interval - elapsed if 0 <= elapsed < self._interval else 0.0

    def _measure(self, sampled: Sequence[QuerySample]) -> None:
        if not sampled:
            return
        with self._work:
            try:
                self._drift.add(sampled)
            except Exception:  # one invalid sample must not discard the others
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
