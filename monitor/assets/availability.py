"""Alerts about availability: is the service up, and does it answer? Severity `page` means: users get no answer."""

from embedship.monitor.assets.alert import INSTANCE, JOB, Alert, AlertCase, AlertSeverity, Runbook, series
from embedship.monitor.assets.recording import BY, MIN_EVENTS

# Objective: the server fails at most 0.1% of requests. 14.4 x this budget for one hour uses 2% of a month's budget, 6 x
# for six hours uses 5% (Google, Site Reliability Workbook, chapter 5). The short window ends the alert soon after the
# cause is gone.
_BUDGET = 0.001
_FAST, _SLOW = 14.4 * _BUDGET, 6 * _BUDGET
# Targets that Prometheus still has and that exported embedship_ready within a week. A job whose targets are gone was
# removed on purpose: a canary that was promoted, a release that was uninstalled.
_DOWN = f"max {BY} (up) == 0\n  and on (namespace, job) last_over_time(embedship_ready[7d])\n"

_READY = series("embedship_ready")
_OK = series("embedship_requests_total", route="/search", status="2xx")
_FAILED = series("embedship_failures_total", reason="engine")

AVAILABILITY = (
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
  embedship:failures:ratio_rate1h > {_FAST:g}
  and embedship:failures:ratio_rate5m > {_FAST:g}
  and on (namespace, job) sum {BY} (increase(embedship_failures_total[1h])) > {MIN_EVENTS}
) or (
  embedship:failures:ratio_rate6h > {_SLOW:g}
  and embedship:failures:ratio_rate30m > {_SLOW:g}
  and on (namespace, job) sum {BY} (increase(embedship_failures_total[6h])) > {MIN_EVENTS}
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
                "Which reason? `sum by (reason) (increase(embedship_failures_total[1h]))`. `engine`: the device or its "
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
)
