"""Offline.

drift_report.py   What a drift test found, in words
query_log.py      A log of queries as the drift test takes it
references.py     Which drift reference belongs to a bundle
training_data.py  What was noticed in service, as what the next training wants
drift_page/
"""
