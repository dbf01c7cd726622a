"""Vectors and hits -> evidence, metrics, alerts.

canary.py        Do the golden texts still get their vectors, on every device?
collector.py     The monitor's status as Prometheus series, computed at scrape time
cpu_budget.py    A share of a core that may be spent
diagnosis.py     The signals together name one cause
errors.py        What can go wrong in the monitor
failures.py      What goes wrong in the monitor is counted and logged, and never reaches what it watches
latch.py         Hysteresis
monitor.py       All that is watched of one running server, its diagnosis, and its memory
observer.py      Watch queries from beside the request path
onset.py         When did it begin?
sample_queue.py  The bounded queue between the request path and the monitor's thread
series.py        Every Prometheus series of the monitor
snapshot.py      What the monitor must not forget when the server is restarted
state.py         The three answers a monitor can give
statistics.py    Two-sample tests, multiple testing and intervals
assets/          What Prometheus, Alertmanager and Grafana need to watch an embedship
drift/
recall/
"""
