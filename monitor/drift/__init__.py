"""Drift: do recent queries differ from the queries on which the model was judged?

reference.py     DriftReference: a sample of query vectors, bound to one model
detector.py      DriftDetector: tests recent queries against the reference
live.py          LiveDrift: the window of recent queries, the test on it, and the evidence
offline.py       tests a complete log of queries
features.py      ShiftFeatures: maps query vectors to features whose mean is 0 without drift
novelty.py       NoveltyWeights: weights queries by how new they are
metric.py        WhiteningMetric: a metric that gives more weight to directions in which the reference varies less
calibration.py   ScoreCalibration: the distribution of the drift score without drift
false_alarms.py  FalseAlarms: the budget of false alarms
evidence.py      DriftEvidence: topics, dimensions and queries that changed
two_sample.py    permutation tests for use without a calibrated detector
sessions.py      sums, variance and effective size of queries grouped by session
repeats.py       finds repeated queries
window.py        QueryRing: the most recent queries
projection.py    PlaneProjection: projects vectors to two dimensions for a plot
"""
