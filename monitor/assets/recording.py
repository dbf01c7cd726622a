"""Ratios that are computed once: failures, refusals and slow searches as shares of the requests that did work.

Counters are divided here and never averaged. Without requests a ratio has no value: nothing is not 0% of nothing.
"""

from typing import NamedTuple

# Requests that run the model. Health checks and scrapes would dilute every share.
WORK = 'embedship_requests_total{route=~"/|/embed|/search|/v1/embeddings"}'
SLOW_SECONDS = "0.25"
BY = "by (namespace, job)"


class Ratio(NamedTuple):
    name: str
    expr: str


def _failures(window: str) -> Ratio:
    return Ratio(
        f"embedship:failures:ratio_rate{window}",
        f"sum {BY} (rate(embedship_failures_total[{window}]))\n  / (sum {BY} (rate({WORK}[{window}])) > 0)\n",
    )


def _slow(window: str) -> Ratio:
    return Ratio(
        f"embedship:search_slow:ratio_rate{window}",
        f'1 - sum {BY} (rate(embedship_request_seconds_bucket{{route="/search", le="{SLOW_SECONDS}"}}[{window}]))\n'
        f'  / (sum {BY} (rate(embedship_request_seconds_count{{route="/search"}}[{window}])) > 0)\n',
    )


RATIOS = (
    *(_failures(window) for window in ("5m", "30m", "1h", "6h")),
    *(_slow(window) for window in ("5m", "1h")),
    Ratio(
        "embedship:overloaded:ratio_rate5m",
        f'sum {BY} (rate(embedship_rejections_total{{reason="overloaded"}}[5m]))\n'
        f"  / (sum {BY} (rate({WORK}[5m])) > 0)\n",
    ),
)
