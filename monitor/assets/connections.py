"""The alert about connections: clients without a connection are refused, even if the server is idle."""

from embedship.monitor.assets.alert import INSTANCE, Alert, AlertCase, AlertSeverity, Runbook, series
from embedship.monitor.assets.recording import BY_INSTANCE

_REFUSED = series("embedship_rejections_total", reason="crowded")
_OVERLOADED = series("embedship_rejections_total", reason="overloaded")
_ENOUGH = 10  # refused in five minutes; fewer come from a client that opened one connection too many and gave up

CONNECTIONS = (
    Alert(
        name="EmbedshipConnectionsFull",
        severity=AlertSeverity.WARN,
        expr=f'sum {BY_INSTANCE} (increase(embedship_rejections_total{{reason="crowded"}}[5m])) > {_ENOUGH}\n',
        lasting="10m",  # twice the window, because a burst counts as long as it is inside the window
        summary="{{ $labels.instance }} has no free connection: some clients are refused",
        description="All connections that {{ $labels.instance }} ({{ $labels.job }}) accepts are in use. For 10 "
        "minutes, requests on additional connections were answered with 503. Existing connections work normally.",
        fires=(
            AlertCase(name="some are refused each minute", series={_REFUSED: "0x10 0+6x60"}, at="30m", labels=INSTANCE),
        ),
        quiet=(
            AlertCase(name="no client is refused", series={_REFUSED: "0x60"}, at="30m"),
            AlertCase(name="a burst of two minutes", series={_REFUSED: "0x10 0+50x2 100x60"}, at="17m"),
            AlertCase(name="one each minute", series={_REFUSED: "0x10 0+1x60"}, at="30m"),
            AlertCase(name="the queue is full, but not the connections", series={_OVERLOADED: "0x10 0+6x60"}, at="30m"),
        ),
        runbook=Runbook(
            meaning="The number of open connections has reached `--connections`. On additional connections only "
            "`/health`, `/ready` and `/metrics` are answered.",
            impact="Clients without a connection get 503 with Retry-After, although the model may be idle.",
            diagnosis=(
                "`embedship_connections`: did it grow slowly (clients that never close), or at once (many clients)?",
                "Which clients use them? On the machine, `ss -tnp state established '( sport = :8080 )'`, by address.",
                "`embedship_connections_cut_total` rises: slow clients keep connections until these are cut.",
            ),
            mitigation=(
                "Clients that open a connection for each request: let them reuse one, or add a proxy in front.",
                "Idle connections: set a shorter `--idle-seconds`, but longer than that of the proxy in front.",
                "Many clients: raise `--connections`, within the limit of open files of the process, or add instances.",
            ),
        ),
    ),
)
