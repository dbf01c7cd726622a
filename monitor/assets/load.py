"""Alerts about load: full queues, slow requests, and processes that end because of it."""

from embedship.monitor.assets.alert import INSTANCE, JOB, Alert, AlertCase, AlertSeverity, Runbook, series
from embedship.monitor.assets.recording import BY, MIN_EVENTS, ON_INSTANCE, RERANKED, SLOW_SECONDS

# Objective: 99% of searches within 250 ms. The two rates are those of embedship.monitor.assets.availability.
_BUDGET = 0.01
_FAST, _SLOW = 14.4 * _BUDGET, 6 * _BUDGET
_QUEUE_AGE_SECONDS = 5

_OK = series("embedship_requests_total", route="/search", status="2xx")
_REFUSED = series("embedship_rejections_total", reason="overloaded")
_QUICK = series("embedship_request_seconds_bucket", route="/search", le=SLOW_SECONDS)
_SEARCHES = series("embedship_request_seconds_count", route="/search")

LOAD = (
    Alert(
        name="EmbedshipQueueSaturated",
        severity=AlertSeverity.WARN,
        expr=f"""\
embedship:overloaded:ratio_rate5m > 0.01
  and on (namespace, job) sum {BY} (increase(embedship_rejections_total{{reason="overloaded"}}[5m])) > {MIN_EVENTS}
""",
        lasting="10m",  # twice the window, because a burst counts as long as it is inside the window
        summary="{{ $labels.job }} refuses {{ $value | humanizePercentage }} of its requests",
        description="The queue of {{ $labels.job }} is full. {{ $value | humanizePercentage }} of the requests of the "
        "last 5 minutes were refused with 429 and a Retry-After header.",
        fires=(
            AlertCase(
                name="one request in ten is refused",
                series={_OK: "0+90x60", series("embedship_requests_total", route="/search", status="4xx"): "0+10x60",
                        _REFUSED: "0+10x60"},
                at="20m",
                labels=JOB,
                value="10%",
            ),
        ),
        quiet=(
            AlertCase(name="no request is refused", series={_OK: "0+100x60", _REFUSED: "0x60"}, at="20m"),
            AlertCase(name="a burst of two minutes", series={_OK: "0+100x60", _REFUSED: "0x10 0+50x2 100x60"},
                at="17m"),
        ),
        runbook=Runbook(
            meaning="More texts arrive than the engines encode, and the queue is full. Requests are refused at once, "
            "so that clients do not wait until they time out.",
            impact="Clients that respect Retry-After are slower, others get errors. Accepted requests are answered.",
            diagnosis=(
                "`embedship_queue_texts` and `rate(embedship_texts_total[5m])`: is there more work than usual, or "
                "less capacity?",
                "Tokens per text, `rate(embedship_tokens_total[5m]) / rate(embedship_texts_total[5m])`: longer texts "
                "cost more.",
                "Is a bulk load running? An eighth of the queue is reserved for queries. "
                "`embedship_queue_age_seconds` says which lane waits, and how long.",
                "With a re-ranker: `rate(embedship_rerank_pairs_total[5m])` and `embedship_rerank_queue_seconds`. A "
                "search that re-ranks fifty documents is fifty pairs.",
            ),
            mitigation=(
                "Add instances or cores.",
                "Run bulk loads outside busy hours, or on separate instances.",
                "Serve a faster variant of the bundle. `bundle.json` lists the quality that each variant loses.",
                "Pairs: let clients re-rank fewer documents (`rerank.top`).",
            ),
        ),
    ),
    Alert(
        name="EmbedshipLatencyHigh",
        severity=AlertSeverity.WARN,
        expr=f"""\
(
  embedship:search_slow:ratio_rate1h > {_FAST:g}
  and embedship:search_slow:ratio_rate5m > {_FAST:g}
  and on (namespace, job) sum {BY} (increase(embedship_request_seconds_count{{route="/search"}}[1h])) > 100
) or (
  embedship:search_slow:ratio_rate6h > {_SLOW:g}
  and embedship:search_slow:ratio_rate30m > {_SLOW:g}
  and on (namespace, job) sum {BY} (increase(embedship_request_seconds_count{{route="/search"}}[6h])) > 100
)
""",
        lasting="5m",
        summary="{{ $labels.job }} is slow: {{ $value | humanizePercentage }} of searches take too long",
        description="{{ $value | humanizePercentage }} of the searches of {{ $labels.job }} take longer than the "
        "objective (99% within 250 ms). This uses 2% of the monthly budget per hour, or 5% in six hours.",
        fires=(
            AlertCase(
                name="a fifth is slow",
                series={_SEARCHES: "0+100x200", _QUICK: "0+80x200"},
                at="2h",
                labels=JOB,
                value="20%",
            ),
            AlertCase(
                name="8% are slow, for hours",
                series={_SEARCHES: "0+100x430", _QUICK: "0+92x430"},
                at="6h",
                labels=JOB,
                value="8%",
            ),
        ),
        quiet=(
            AlertCase(name="one in a hundred is slow", series={_SEARCHES: "0+100x200", _QUICK: "0+99x200"}, at="2h"),
            AlertCase(
                name="only re-ranked searches take a second",
                series={
                    _SEARCHES: "0+100x200",
                    _QUICK: "0+99x200",
                    series("embedship_request_seconds_count", route=RERANKED): "0+100x200",
                    series("embedship_request_seconds_bucket", route=RERANKED, le=SLOW_SECONDS): "0x200",
                },
                at="2h",
            ),
            AlertCase(name="one search an hour, slow", series={_SEARCHES: "0x60 1x60", _QUICK: "0x120"}, at="65m"),
            AlertCase(name="it is over", series={_SEARCHES: "0+100x200", _QUICK: "0+80x80 6500+100x120"}, at="2h"),
        ),
        runbook=Runbook(
            meaning="Searches have been slower than the objective for an hour and still are. Other routes are not "
            "counted, because their requests may contain thousands of texts. Re-ranked searches are not counted, "
            "because their time depends on the number of documents that the client asks for.",
            impact="Users wait.",
            diagnosis=(
                "Which step is slow? Compare `embedship_queue_seconds` (by lane), `embedship_inference_seconds` (by "
                "device) and `embedship_search_seconds`; the dashboard shows them side by side. The header "
                "`Server-Timing` of each answer also says it, and with `--access-log` so does the log.",
                "Queue: too much work; see EmbedshipQueueSaturated. Inference: a slower or throttled CPU (check the "
                "cgroup quota), or longer texts. Search: an index that grew, or that is no longer in memory.",
            ),
            mitigation=(
                "Queue: add instances.",
                "Inference: serve a faster variant, or raise a CPU limit that was lowered.",
                "Search: build an index with a coarse stage (`embedship index --kind binary`), or add memory.",
            ),
        ),
    ),
    Alert(
        name="EmbedshipRequestsSlow",
        severity=AlertSeverity.WARN,
        expr="""\
embedship:request_slow:ratio_rate1h > 0.05
  and embedship:request_slow:ratio_rate5m > 0.05
  and on (namespace, job, route)
    sum by (namespace, job, route) (increase(embedship_request_seconds_count[1h])) > 100
""",
        lasting="5m",
        summary="{{ $labels.job }}: {{ $value | humanizePercentage }} of requests to {{ $labels.route }} are slow",
        description="In the last hour {{ $value | humanizePercentage }} of the requests to {{ $labels.route }} of "
        "{{ $labels.job }} took more than 2.5 s, and requests of the last 5 minutes are still slow.",
        fires=tuple(
            AlertCase(
                name=f"most requests to {route} take 5 s",
                series={
                    series("embedship_request_seconds_count", route=route): "0+300x200",
                    series("embedship_request_seconds_bucket", route=route, le="0.25"): "0+1x200",
                    series("embedship_request_seconds_bucket", route=route, le="2.5"): "0+30x200",
                },
                at="90m",
                labels={**JOB, "route": route},
                value="90%",
            )
            for route in ("/v1/embeddings", "/embed", "/rerank", RERANKED)
        ),
        quiet=(
            AlertCase(
                name="embeddings take 2 s",
                series={
                    series("embedship_request_seconds_count", route="/v1/embeddings"): "0+300x200",
                    series("embedship_request_seconds_bucket", route="/v1/embeddings", le="2.5"): "0+299x200",
                },
                at="90m",
            ),
            AlertCase(
                name="one large request an hour",
                series={
                    series("embedship_request_seconds_count", route="/embed"): "0x60 1x60",
                    series("embedship_request_seconds_bucket", route="/embed", le="2.5"): "0x120",
                },
                at="65m",
            ),
        ),
        runbook=Runbook(
            meaning="For an hour, more than one in twenty requests to one route other than `/search` took longer than "
            "2.5 s, and they still do.",
            impact="Users or programs wait. If only bulk loads use this route, this is normal: disable this alert "
            "(`embedship monitor init --disable EmbedshipRequestsSlow`), or raise `--threshold request_seconds`.",
            diagnosis=(
                "How many texts does a request contain? Compare `rate(embedship_texts_total[5m])` with "
                "`rate(embedship_request_seconds_count[5m])`.",
                "Do requests wait? `embedship_queue_age_seconds` by lane. Re-ranking has its own queue, "
                "`embedship_rerank_queue_seconds`.",
                "Is the model slow? `embedship_inference_seconds` by device; `embedship_rerank_inference_seconds`.",
            ),
            mitigation=(
                "Queue: add instances. Inference: serve a faster variant, or add cores.",
                "Re-ranking: let clients re-rank fewer documents (`rerank.top`).",
            ),
        ),
    ),
    Alert(
        name="EmbedshipQueueWaiting",
        severity=AlertSeverity.WARN,
        expr=f'max {BY} (embedship_queue_age_seconds{{lane="interactive"}}) > {_QUEUE_AGE_SECONDS}\n',
        lasting="10m",
        summary="Requests to {{ $labels.job }} wait for {{ $value | humanizeDuration }} in the queue",
        description="The oldest interactive text in the queue of {{ $labels.job }} has waited for "
        "{{ $value | humanizeDuration }}. The queue has been this slow for 10 minutes. No request is refused yet.",
        fires=(
            AlertCase(
                name="20 s for an hour",
                series={series("embedship_queue_age_seconds", lane="interactive"): "20x400"},
                at="1h",
                labels=JOB,
                value="20s",
            ),
        ),
        quiet=(
            AlertCase(
                name="a bulk load waits",
                series={
                    series("embedship_queue_age_seconds", lane="interactive"): "0.2x400",
                    series("embedship_queue_age_seconds", lane="bulk"): "60x400",
                },
                at="1h",
            ),
            AlertCase(
                name="a burst of 3 minutes",
                series={series("embedship_queue_age_seconds", lane="interactive"): "0x20 20x3 0x100"},
                at="24m",
            ),
        ),
        runbook=Runbook(
            meaning="Interactive requests, to any route, wait in the queue for seconds: more texts arrive than are "
            "encoded.",
            impact="Users wait. When the queue is full, requests are refused: EmbedshipQueueSaturated.",
            diagnosis=(
                "More work? `rate(embedship_texts_total[5m])`, and tokens per text.",
                "Less capacity? `embedship_inference_seconds` by device, and the number of ready instances.",
            ),
            mitigation=("Add instances or cores.", "Run bulk loads outside busy hours."),
        ),
    ),
    Alert(
        name="EmbedshipRestarting",
        severity=AlertSeverity.WARN,
        expr="changes(process_start_time_seconds[1h]) >= 3\n"
        f"  and {ON_INSTANCE} last_over_time(embedship_ready[15m])\n",
        lasting="0m",
        summary="{{ $labels.instance }} was restarted {{ $value }} times within an hour",
        description="The process of {{ $labels.instance }} ({{ $labels.job }}) ended and was started again "
        "{{ $value }} times within the last hour.",
        fires=(
            AlertCase(
                name="four restarts",
                series={series("process_start_time_seconds"): "0x5 300x5 600x5 900x5 1200x60"},
                at="30m",
                labels=INSTANCE,
                value="4",
            ),
        ),
        quiet=(
            AlertCase(name="a deployment", series={series("process_start_time_seconds"): "0x20 1200x60"}, at="30m"),
            AlertCase(
                name="another program restarts",
                series={series("process_start_time_seconds", job="other"): "0x5 300x5 600x5 900x5 1200x60"},
                at="30m",
            ),
        ),
        runbook=Runbook(
            meaning="One instance ends and is started again, repeatedly.",
            impact="Each time, its running requests are lost, and it does not answer for seconds.",
            diagnosis=(
                "Exit codes: `kubectl describe pod NAME`. 137: memory. 1: an engine that failed. 4: files that do not "
                "belong together.",
                "The last lines before each end: `kubectl logs NAME --previous`.",
            ),
            mitigation=(
                "Memory: raise the limit, or lower `--queue-texts` or `--batch-tokens`.",
                "An engine that fails: serve another variant of the bundle.",
            ),
        ),
    ),
)  # fmt: skip
