"""Comparison of a new bundle or server with the one in use: measurements, gates and the decision.

bundles.py      Compares two bundles
footprint.py    Measures the peak memory of a process
gates.py        Gates: check each measurement against a limit
live.py         Compares two servers
pace.py         Measures the speed ratio of two encoders
parity.py       Cosines and drift of the vectors of two bundles of the same model
questions.py    The queries and their labels
rankings.py     Ranking metrics with intervals
report.py       The report and its parts
report_page.py  HTML page of the report
sources.py      The documents that are searched
"""
