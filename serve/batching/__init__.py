"""Batching.

admission.py       Who may enter
device_metrics.py  The devices as Prometheus series, computed at scrape time
dispatcher.py      Who takes what next
executor.py        The devices' streams
model_client.py    One model as requests meet it
pending.py         Requests on their way through the streams
priority_queue.py  Which texts go into the next batch
retry.py           What is tried next when a batch failed or its device died
"""
