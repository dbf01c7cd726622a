"""Telemetry: metrics, logs and traces of requests.

histogram.py        Histograms for a single thread
logs.py             Logging to stderr, as text or JSON
metrics.py          Prometheus metrics of the server
request_context.py  Id, token counts and phase times of the current request
spans.py            OpenTelemetry spans of a request
tracing.py          Creates a tracer if OpenTelemetry's variables configure one
"""
