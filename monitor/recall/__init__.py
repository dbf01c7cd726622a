"""Recall: does the system find the right documents?

source.py          RecallSource: the three ways to measure recall
rolling.py         RollingRecall: recall over recent queries compared with a baseline
cusum.py           Cusum: detects a fall of recall query by query
shadow.py          ShadowRecall: live queries, also searched exactly
probes.py          ProbeRecall: labelled queries that are replayed on a schedule
feedback.py        FeedbackRecall: judgements of users
candidate.py       CandidateComparison: compares a candidate model and index with the serving one
score.py           scores one ranking when the relevant documents are known
history.py         recall over time from a log of judged queries
hard_negatives.py  chooses hard negatives for training
"""
