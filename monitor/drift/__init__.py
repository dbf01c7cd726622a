"""Drift.

calibration.py   What the drift score does while nothing drifts, learned from the reference alone
detector.py      Has the distribution of queries moved away from the reference?
evidence.py      What moved? Topics gained and lost, dimensions, and the queries that lie furthest from all that
false_alarms.py  The one knob of every alarm
features.py      What of a query is compared
live.py          The live end of drift
metric.py        How far is far
novelty.py       How new is a query? By how far away the nearest queries of the reference are
offline.py       A whole log of queries against a reference, after the fact
projection.py    Two directions to look along
reference.py     The drift reference
repeats.py       The same query twice is one piece of evidence
sessions.py      Queries of one session belong together
two_sample.py    Permutation tests of whether two samples have one distribution, where no detector has been
window.py        The last queries, as the monitor keeps them
"""
