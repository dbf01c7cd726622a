"""Quality monitoring: computes drift, recall, canary results, metrics and alerts from vectors and hits.

monitor.py       QualityMonitor: combines all signals into a status and a diagnosis, and saves its state
diagnosis.py     derives one cause from the states of all signals
observer.py      QueryObserver: samples live queries, tests them for drift and measures recall
sample_queue.py  SampleQueue: the bounded queue between the request path and the monitor's thread
canary.py        CanaryMonitor: checks that every device gives the right vectors for the golden texts
drift/           do recent queries differ from the reference?
recall/          does the system find the right documents?
statistics.py    statistical tests and confidence intervals
state.py         SignalState: ok, warn, unknown
latch.py         WarningLatch: hysteresis of warnings
onset.py         StateTimer: records when the current state began
snapshot.py      saves and loads the monitor's state
cpu_budget.py    CpuBudget: limits background work to a share of one core
failures.py      FailureCounter: counts and logs exceptions inside the monitor
errors.py        the error classes
series.py        TABLE: every Prometheus series of the monitor
collector.py     MonitorCollector: exports the status as Prometheus series
assets/          alert rules, runbooks and the dashboard
"""
