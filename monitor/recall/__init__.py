"""Recall.

candidate.py       A candidate beside what serves
cusum.py           Has recall fallen? Evidence gathered query by query, with a promised number of queries between
feedback.py        What users say was right, held against what they were answered
hard_negatives.py  Documents that look like the answer and are not
history.py         Recall over time, from a log of judged queries
probes.py          Labelled queries, replayed on a schedule
rolling.py         Does the index still find what an exact search finds?
score.py           How good is one ranking, the relevant documents being known? Pure
shadow.py          A sample of live searches, done once more exactly
source.py          Where a recall was measured
"""
