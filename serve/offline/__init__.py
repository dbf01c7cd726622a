"""Offline analysis: drift of a query log, and training data from the observations of a server.

drift_report.py   Result of a drift test in words
query_log.py      Reads a query log
references.py     Finds and opens the drift reference of a bundle
training_data.py  Builds triplets and finds queries that need a label
drift_page/       HTML page of a drift report
"""
