"""The alert about connections: those who have none are refused, however little is asked."""

from embedship.monitor.assets.alert import INSTANCE, Alert, AlertCase, AlertSeverity, Runbook, series
from embedship.monitor.assets.recording import BY_INSTANCE

_CROWDED = series("embedship_rejections_total", reason="crowded")
_OVERLOADED = series("embedship_rejections_total", reason="overloaded")
_ENOUGH = 10  # refused in five minutes: fewer are a client that opened one too many and gave up

CONNECTIONS = (
    Alert(
        name="EmbedshipConnectionsFull",
        severity=AlertSeverity.WARN,
        expr=f'sum {BY_INSTANCE} (increase(embedship_rejections_total{{reason="crowded"}}[5m])) > {_ENOUGH}\n',
        lasting="10m",  # twice the window: a burst counts for as long as it lies within it
        summary="{{ $labels.instance }} has no connection left for some clients",
        description="All connections that {{ $labels.instance }} ({{ $labels.job }}) takes are held, and for 10 "
        "minutes requests on further ones have been answered with 503. Who holds a connection is answered as ever.",
        fires=(
            AlertCase(name="some are refused each minute", series={_CROWDED: "0x10 0+6x60"}, at="30m", labels=INSTANCE),
        ),
        quiet=(
            AlertCase(name="nobody is refused", series={_CROWDED: "0x60"}, at="30m"),
            AlertCase(name="a burst of two minutes", series={_CROWDED: "0x10 0+50x2 100x60"}, at="17m"),
            AlertCase(name="one each minute", series={_CROWDED: "0x10 0+1x60"}, at="30m"),
            AlertCase(name="the queue is full, and connections are not", series={_OVERLOADED: "0x10 0+6x60"}, at="30m"),
        ),
        runbook=Runbook(
            meaning="As many connections are open as `--connections` allows; on a further one only `/health`, `/ready` "
            "and `/metrics` are answered.",
            impact="Clients without a connection get 503 with Retry-After, although the model may be idle.",
            diagnosis=(
                "`embedship_connections`: has it grown slowly (clients that never close), or at once (many clients)?",
                "Who holds them? On the machine, `ss -tnp state established '( sport = :8080 )'`, counted by address.",
                "`embedship_connections_cut_total`: slow clients hold them until they are cut.",
            ),
            mitigation=(
                "Clients that open a connection for each request: let them reuse one, or put a proxy in front.",
                "Idle ones: a shorter `--idle-seconds`; but longer than the proxy in front keeps its own.",
                "Many clients: a higher `--connections`, within the open files that the process may have, or more "
                "instances.",
            ),
        ),
    ),
)
