"""Telemetry.

histogram.py        Histograms that one thread writes to
logs.py             What the server says on stderr
metrics.py          What the server counts
request_context.py  One request as it is seen from outside
spans.py            OpenTelemetry
tracing.py          Whether requests are traced
"""
