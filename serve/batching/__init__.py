"""Batching: queues the texts of requests, forms batches, and runs them on the devices of a model.

admission.py       Admission control: a permit per request bounds the number of queued texts
device_metrics.py  Prometheus metrics of the devices
dispatcher.py      Decides which batch each device stream runs next
executor.py        Runs batches, one thread per device stream
model_client.py    Tokenises and encodes the texts of requests
pending.py         In-flight requests, and the routing of batch results to them
priority_queue.py  Selects the texts of the next batch
retry.py           Selects the batches to run after a failure
"""
