"""Alerts about the service: is it up, does it answer, is it fast enough? Severity `page` means: users get no answer."""

from embedship.monitor.assets.alert import INSTANCE, JOB, Alert, AlertCase, AlertSeverity, Runbook, series
from embedship.monitor.assets.recording import BY, RERANKED, SLOW_SECONDS

KEY = "on (namespace, job, instance)"

# Objective: the server fails at most 0.1% of requests. 14.4 x this budget for one hour uses 2% of a month's budget, 6 x
# for six hours uses 5% (Google, Site Reliability Workbook, chapter 5). The short window ends the alert soon after the
# cause is gone.
_BUDGET = 0.001
FAST, SLOW = 14.4 * _BUDGET, 6 * _BUDGET
# The same for latency: 99% of searches within 250 ms.
_LATE_BUDGET = 0.01
LATE_FAST, LATE_SLOW = 14.4 * _LATE_BUDGET, 6 * _LATE_BUDGET
QUEUE_AGE_SECONDS = 5
# Targets that Prometheus still has and that exported embedship_ready within a week. A job whose targets are gone was
# removed on purpose: a canary that was promoted, a release that was uninstalled.
_DOWN = f"max {BY} (up) == 0\n  and on (namespace, job) last_over_time(embedship_ready[7d])\n"
VOLUME = 10  # with fewer failed requests, their share is mostly chance

_READY = series("embedship_ready")
_OK = series("embedship_requests_total", route="/search", status="2xx")
_FAILED = series("embedship_failures_total", reason="engine")
_REFUSED = series("embedship_rejections_total", reason="overloaded")
_QUICK = series("embedship_request_seconds_bucket", route="/search", le=SLOW_SECONDS)
_SEARCHES = series("embedship_request_seconds_count", route="/search")

SERVICE = (
    Alert(
        name="EmbedshipAbsent",
        severity=AlertSeverity.PAGE,
        expr=f"absent_over_time(embedship_ready[1h])\n  unless on () ({_DOWN.strip()})\n",
        lasting="10m",
        summary="Prometheus has received no metrics from any embedship for an hour",
        description="No target has exported embedship_ready for an hour. The service is gone, or Prometheus no longer "
        "scrapes it. Until this is fixed, no other alert of embedship can fire.",
        fires=(AlertCase(name="nothing was ever scraped", series={_READY: "_x60"}, at="11m", labels={}),),
        quiet=(
            AlertCase(name="one instance is scraped", series={}, at="2h"),
            AlertCase(name="it has been gone for less than 10 minutes", series={_READY: "_x60"}, at="9m"),
            AlertCase(
                name="the only service is down, which EmbedshipDown reports",
                series={_READY: "1x40 _x380", series("up"): "1x40 0x380"},
                at="3h",
                beside={"EmbedshipDown": JOB},
            ),
        ),
        runbook=Runbook(
            meaning="This Prometheus has received no series `embedship_ready` from any instance for an hour.",
            impact="Either users get no answers, or the service works without monitoring. Both need a person.",
            diagnosis=(
                "Ask the service itself: `curl -s http://SERVICE/health`. If it answers, only the scrape is broken.",
                "In Prometheus, Status / Targets: is there a target for embedship, and what is its last error?",
                "In Kubernetes: `kubectl get pods,servicemonitors,podmonitors -l app.kubernetes.io/name=embedship`.",
            ),
            mitigation=(
                "Service gone: start it again. Its log on stderr says in one sentence why it did not start.",
                "Scrape broken: restore the scrape configuration or ServiceMonitor for `GET /metrics`.",
            ),
        ),
    ),
    Alert(
        name="EmbedshipDown",
        severity=AlertSeverity.PAGE,
        expr=_DOWN,
        lasting="2m",
        summary="No instance of {{ $labels.job }} can be reached",
        description="Prometheus has targets for {{ $labels.job }}, but none of them answers. All requests fail.",
        fires=(
            AlertCase(
                name="the only instance does not answer",
                series={_READY: "1x10 _x60", series("up"): "1x10 0x60"},
                at="18m",
                labels=JOB,
            ),
            *(
                AlertCase(
                    name=f"it is down since minute 20 while another service is up, at {at}",
                    series={
                        _READY: "1x20 _x400",
                        series("up"): "1x20 0x400",
                        series("embedship_ready", job="other"): "1x430",
                        series("up", job="other"): "1x430",
                    },
                    at=at,
                    labels=JOB,
                )
                for at in ("60m", "100m", "3h", "6h")
            ),
        ),
        quiet=(
            AlertCase(name="a scrape failed", series={series("up"): "1x10 0 1x60"}, at="12m"),
            AlertCase(
                name="another instance is up",
                series={
                    _READY: "1x10 _x60",
                    series("up"): "1x10 0x60",
                    series("embedship_ready", instance="b:8080"): "1x60",
                    series("up", instance="b:8080"): "1x60",
                },
                at="14m",
            ),
            *(
                AlertCase(
                    name=f"a canary was promoted and its job removed, at {at}",
                    series={
                        series("embedship_ready", job="embedship-canary"): "1x20 stale",
                        series("up", job="embedship-canary"): "1x20 stale",
                    },
                    at=at,
                )
                for at in ("23m", "55m")
            ),
        ),
        runbook=Runbook(
            meaning="Prometheus has targets for one job that it scraped within the last week, and none answers "
            "`/metrics`. A job whose targets are gone was removed on purpose and does not fire this alert. To be "
            "alerted when yours disappears, use `embedship monitor init --job NAMESPACE/JOB`.",
            impact="Searches and embeddings fail for all users.",
            diagnosis=(
                "Are the processes running? `kubectl get pods`, or `systemctl status`, on the machines of the job.",
                "Why did they end? Read the last lines of the log. Exit code 4: a bundle, index or reference that do "
                "not belong together. Exit code 137: the process was killed because of memory.",
                "What changed in the last hour: a new bundle, a new index, a new memory limit, the network?",
            ),
            mitigation=(
                "Roll back the last change of bundle or index: both are folders that are never changed in place.",
                "Killed because of memory: raise the limit, or serve a smaller variant (`--variant`).",
                "Stopped on purpose: remove its targets, or silence this alert.",
            ),
        ),
    ),
    Alert(
        name="EmbedshipInstanceDown",
        severity=AlertSeverity.WARN,
        expr="up == 0\n  and on (namespace, job) embedship_ready\n",
        lasting="10m",  # a start may take five: the chart's startup probe allows them
        summary="{{ $labels.instance }} cannot be reached, but other instances can",
        description="{{ $labels.instance }} of {{ $labels.job }} has not answered for 10 minutes. Either it stopped, "
        "or it is new and cannot start (a stuck rollout). The other instances take its load.",
        fires=(
            AlertCase(
                name="one of two is gone",
                series={
                    series("up", instance="b:8080"): "1x10 0x60",
                    series("embedship_ready", instance="b:8080"): "1x10 _x60",
                },
                at="22m",
                labels={**INSTANCE, "instance": "b:8080"},
            ),
            AlertCase(
                name="a new pod never starts: the rollout is stuck",
                series={series("up", instance="new:8080"): "0x300"},
                at="90m",
                labels={**INSTANCE, "instance": "new:8080"},
            ),
        ),
        quiet=(
            AlertCase(name="another service is down", series={series("up", job="database"): "0x60"}, at="20m"),
            AlertCase(
                name="a restart of two minutes",
                series={
                    series("up", instance="b:8080"): "1x10 0x1 1x60",
                    series("embedship_ready", instance="b:8080"): "1x10 _x2 1x60",
                },
                at="20m",
            ),
        ),
        runbook=Runbook(
            meaning="One instance does not answer, but others of its job do: it stopped, or it never started.",
            impact="Users notice nothing yet. There is less capacity, and the next failure may affect users.",
            diagnosis=(
                "Read the last lines of its log and its exit code. 137: the process was killed because of memory.",
                "Does the machine or the pod exist at all?",
                "Is it new? `kubectl rollout status deployment/NAME`. Exit code 4: a bundle, index or reference that "
                "do not belong together.",
            ),
            mitigation=(
                "A stuck rollout: `kubectl rollout undo deployment/NAME`.",
                "Restart the instance. It answers only after its golden texts gave the right vectors, so a restart "
                "cannot make answers worse.",
            ),
        ),
    ),
    Alert(
        name="EmbedshipNotReady",
        severity=AlertSeverity.PAGE,
        expr=f"sum {BY} (embedship_ready) == 0\n",
        lasting="5m",
        summary="All instances of {{ $labels.job }} report that they are not ready",
        description="The processes of {{ $labels.job }} run, but all of them answer /ready with 503. Load balancers "
        "therefore send them no requests.",
        fires=(AlertCase(name="the only instance is not ready", series={_READY: "1x10 0x60"}, at="17m", labels=JOB),),
        quiet=(
            AlertCase(
                name="one of two is ready",
                series={_READY: "0x60", series("embedship_ready", instance="b:8080"): "1x60"},
                at="17m",
            ),
            AlertCase(name="a rolling update of 3 minutes", series={_READY: "1x10 0x3 1x60"}, at="14m"),
        ),
        runbook=Runbook(
            meaning="Every scraped instance reports `embedship_ready` 0.",
            impact="Load balancers send no requests: users get errors although the processes run.",
            diagnosis=(
                "`curl -s http://INSTANCE/ready` says why. `draining`: the process was told to stop and was not "
                "replaced.",
                "Is a rollout stuck? `kubectl rollout status deployment/NAME`.",
            ),
            mitigation=("Start a fresh instance, or undo the rollout: `kubectl rollout undo deployment/NAME`.",),
        ),
    ),
    Alert(
        name="EmbedshipHighErrorRate",
        severity=AlertSeverity.PAGE,
        expr=f"""\
(
  embedship:failures:ratio_rate1h > {FAST:g}
  and embedship:failures:ratio_rate5m > {FAST:g}
  and on (namespace, job) sum {BY} (increase(embedship_failures_total[1h])) > {VOLUME}
) or (
  embedship:failures:ratio_rate6h > {SLOW:g}
  and embedship:failures:ratio_rate30m > {SLOW:g}
  and on (namespace, job) sum {BY} (increase(embedship_failures_total[6h])) > {VOLUME}
)
""",
        lasting="2m",
        summary="{{ $labels.job }} fails {{ $value | humanizePercentage }} of its requests",
        description="{{ $value | humanizePercentage }} of the requests to {{ $labels.job }} failed because of the "
        "server. This uses at least 2% of the monthly error budget (0.1% of requests) per hour, or 5% in six hours.",
        fires=(
            AlertCase(
                name="5% fail, from one minute on",
                series={_OK: "0+100x200", _FAILED: "0x60 0+5x140"},
                at="121m",
                labels=JOB,
                value="5%",
            ),
            AlertCase(
                name="5% of the Cohere clients' requests fail, among many health checks",
                series={
                    series("embedship_requests_total", route="/v2/embed", status="2xx"): "0+100x200",
                    series("embedship_requests_total", route="/ready", status="2xx"): "0+9000x200",
                    _FAILED: "0x60 0+5x140",
                },
                at="121m",
                labels=JOB,
                value="5%",
            ),
            AlertCase(
                name="1% fail, for hours",
                series={_OK: "0+100x430", _FAILED: "0+1x430"},
                at="3h",
                labels=JOB,
                value="1%",
            ),
        ),
        quiet=(
            AlertCase(name="no request fails", series={_OK: "0+100x430", _FAILED: "0x430"}, at="2h"),
            AlertCase(name="0.05% fail", series={_OK: "0+2000x430", _FAILED: "0+1x430"}, at="2h"),
            AlertCase(name="3 of 12 fail", series={_OK: "0x50 0+1x12 12x60", _FAILED: "0x58 1 2 3x80"}, at="64m"),
            AlertCase(name="it is over", series={_OK: "0+100x200", _FAILED: "0+5x60 300x140"}, at="100m"),
        ),
        runbook=Runbook(
            meaning="Requests end with a failure of the server (5xx; 424 on the routes of text-embeddings-inference) "
            "far more often than the objective of 99.9% allows. Errors of clients, 4xx, are not counted.",
            impact="Users get errors instead of answers. Clients that retry add load.",
            diagnosis=(
                'Which reason? `sum by (reason) (increase(embedship_failures_total[1h]))`. `engine`: the device or its '
                "runtime. `timed_out`: longer than `--request-seconds`. `index_away`: a Milvus that does not answer. "
                "`disk_full` and `not_stored`: changes that could not be written. `internal`: a bug of embedship, with "
                "a stack trace in the log.",
                "Which instance? `sum by (instance) (increase(embedship_failures_total[1h]))`. One instance: suspect "
                "its machine. All instances: suspect a change.",
                "`GET /monitor`, or the page /monitor/ui: does a canary fail as well?",
            ),
            mitigation=(
                "One instance: take it out and start another.",
                "All instances, after a change: roll back the bundle, index or image.",
                "`engine`: serve another variant of the same bundle (`--variant`), on another runtime.",
                "`timed_out`: add instances, or send fewer texts per request. `embedship_queue_age_seconds` says "
                "whether requests wait, `embedship_inference_seconds` whether the model is slow.",
                "`index_away`: repair Milvus, or reload an index folder. `disk_full`: free disk space.",
            ),
        ),
    ),
    Alert(
        name="EmbedshipQueueSaturated",
        severity=AlertSeverity.WARN,
        expr=f"""\
embedship:overloaded:ratio_rate5m > 0.01
  and on (namespace, job) sum {BY} (increase(embedship_rejections_total{{reason="overloaded"}}[5m])) > {VOLUME}
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
  embedship:search_slow:ratio_rate1h > {LATE_FAST:g}
  and embedship:search_slow:ratio_rate5m > {LATE_FAST:g}
  and on (namespace, job) sum {BY} (increase(embedship_request_seconds_count{{route="/search"}}[1h])) > 100
) or (
  embedship:search_slow:ratio_rate6h > {LATE_SLOW:g}
  and embedship:search_slow:ratio_rate30m > {LATE_SLOW:g}
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
        expr=f'max {BY} (embedship_queue_age_seconds{{lane="interactive"}}) > {QUEUE_AGE_SECONDS}\n',
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
        expr=f"changes(process_start_time_seconds[1h]) >= 3\n  and {KEY} last_over_time(embedship_ready[15m])\n",
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
