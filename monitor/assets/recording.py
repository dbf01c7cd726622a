"""Recording rules: failures, refusals and slow searches as shares of the requests that did work.

Counters are divided, never averaged. Without requests a ratio has no value instead of 0.
"""

from typing import NamedTuple

# Routes used by monitoring and administration. Counting them would dilute every share. The pattern excludes routes
# instead of including them, so that a route missing from it is still counted.
QUIET = "other|/admin/.*|/health|/info|/metrics|/models|/monitor(/.*)?|/openapi[.]json|/ready|/v1/models(/.*)?"
WORK = f'embedship_requests_total{{route!~"{QUIET}"}}'
# The route label of re-ranked searches. Their time depends on the number of documents that the client asks for.
RERANKED = "/search:rerank"
SLOW_SECONDS = "0.25"
REQUEST_SLOW_SECONDS = "2.5"  # of every other route: embeddings, re-ranking
BY = "by (namespace, job)"
ON_INSTANCE = "on (namespace, job, instance)"
BY_INSTANCE = "by (namespace, job, instance)"
MIN_EVENTS = 10  # with fewer failed or refused requests, their share is mostly chance


class RecordedRatio(NamedTuple):
    """A recording rule: name and expression."""

    name: str
    expr: str


def _failures(window: str) -> RecordedRatio:
    return RecordedRatio(
        f"embedship:failures:ratio_rate{window}",
        f"sum {BY} (rate(embedship_failures_total[{window}]))\n  / (sum {BY} (rate({WORK}[{window}])) > 0)\n",
    )


def _slow(window: str) -> RecordedRatio:
    return RecordedRatio(
        f"embedship:search_slow:ratio_rate{window}",
        f'1 - sum {BY} (rate(embedship_request_seconds_bucket{{route="/search", le="{SLOW_SECONDS}"}}[{window}]))\n'
        f'  / (sum {BY} (rate(embedship_request_seconds_count{{route="/search"}}[{window}])) > 0)\n',
    )


def _requests_slow(window: str) -> RecordedRatio:
    by, work = "by (namespace, job, route)", f'route!~"/search|{QUIET}"'
    return RecordedRatio(
        f"embedship:request_slow:ratio_rate{window}",
        f'1 - sum {by} (rate(embedship_request_seconds_bucket{{{work}, le="{REQUEST_SLOW_SECONDS}"}}[{window}]))\n'
        f"  / (sum {by} (rate(embedship_request_seconds_count{{{work}}}[{window}])) > 0)\n",
    )


RATIOS = (
    *(_failures(window) for window in ("5m", "30m", "1h", "6h")),
    *(_slow(window) for window in ("5m", "30m", "1h", "6h")),
    *(_requests_slow(window) for window in ("5m", "1h")),
    RecordedRatio(
        "embedship:overloaded:ratio_rate5m",
        f'sum {BY} (rate(embedship_rejections_total{{reason="overloaded"}}[5m]))\n'
        f"  / (sum {BY} (rate({WORK}[5m])) > 0)\n",
    ),
)
