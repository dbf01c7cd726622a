"""Alerts about the chart's CronJobs. They need the metrics of kube-state-metrics and are silent without them."""

from embedship.monitor.assets.alert import Alert, AlertCase, AlertSeverity, Runbook

CRONJOBS = ".*embedship.*-(check|drift|backup)"
BACKUPS = ".*embedship.*-backup"
BACKUP_AGE_SECONDS = 2 * 86_400

_BY = "by (namespace, cronjob)"


def _succeeded(names: str) -> str:
    """Return the PromQL for the time of a CronJob's last success, or of its creation if it never succeeded."""
    chosen = f'{{cronjob=~"{names}"}}'
    return f"max {_BY} (kube_cronjob_status_last_successful_time{chosen} or kube_cronjob_created{chosen})"


def _cronjob(metric: str, name: str) -> str:
    return f'kube_cronjob_{metric}{{cronjob="{name}",namespace="prod"}}'


_LABELS = {"namespace": "prod", "cronjob": "search-embedship-backup"}
_BACKUP = _LABELS["cronjob"]

JOBS = (
    Alert(
        name="EmbedshipJobFailed",
        severity=AlertSeverity.WARN,
        expr=f'max {_BY} (kube_cronjob_status_last_schedule_time{{cronjob=~"{CRONJOBS}"}})\n'
        f"  > {_succeeded(CRONJOBS)}\n",
        lasting="1h",
        summary="CronJob {{ $labels.cronjob }} in {{ $labels.namespace }} fails",
        description="The CronJob {{ $labels.cronjob }} in {{ $labels.namespace }} was started, but no run has "
        "succeeded since. This has lasted for an hour.",
        fires=(
            AlertCase(
                name="the last run failed",
                series={
                    _cronjob("status_last_schedule_time", _BACKUP): "0x10 600x420",
                    _cronjob("status_last_successful_time", _BACKUP): "60x430",
                },
                at="80m",
                labels=_LABELS,
            ),
            AlertCase(
                name="no run ever succeeded",
                series={
                    _cronjob("status_last_schedule_time", _BACKUP): "600x430",
                    _cronjob("created", _BACKUP): "0x430",
                },
                at="80m",
                labels=_LABELS,
            ),
        ),
        quiet=(
            AlertCase(
                name="it runs every ten minutes, for two minutes each",
                series={
                    _cronjob("status_last_schedule_time", _BACKUP): "0x9 600x9 1200x9 1800x9 2400x9 3000x9 3600x40",
                    _cronjob("status_last_successful_time", _BACKUP): "60x11 720x9 1320x9 1920x9 2520x9 3120x9 3720x40",
                },
                at="85m",
            ),
            AlertCase(
                name="another program's job fails",
                series={
                    _cronjob("status_last_schedule_time", "database-backup"): "600x430",
                    _cronjob("created", "database-backup"): "0x430",
                },
                at="80m",
            ),
        ),
        runbook=Runbook(
            meaning="A CronJob of the chart (check, drift report or backup) was started, but no run succeeded within "
            "an hour after that.",
            impact="Users notice nothing. The work of the job is missing: no backup, no report, or the check found "
            "that golden texts do not get the right vectors.",
            diagnosis=(
                "`kubectl get jobs -n NAMESPACE`, then `kubectl logs job/NAME`: the last line says why.",
                "`check`: does EmbedshipCanaryFailed fire as well? If not, the check cannot reach the server.",
            ),
            mitigation=(
                "Fix what the log names: a full volume claim, a key, a network policy.",
                "Run it again: `kubectl create job --from=cronjob/NAME again`.",
            ),
        ),
    ),
    Alert(
        name="EmbedshipBackupOld",
        severity=AlertSeverity.WARN,
        expr=f"time() - {_succeeded(BACKUPS)} > {BACKUP_AGE_SECONDS}\n",
        lasting="1h",
        summary="The last backup of {{ $labels.cronjob }} is {{ $value | humanizeDuration }} old",
        description="The CronJob {{ $labels.cronjob }} in {{ $labels.namespace }} has not succeeded for "
        "{{ $value | humanizeDuration }}.",
        fires=(
            AlertCase(
                name="two days and two hours",
                series={_cronjob("status_last_successful_time", _BACKUP): "-172800x430"},
                at="2h",
                labels=_LABELS,
                value="2d 2h 0m 0s",
            ),
        ),
        quiet=(
            AlertCase(
                name="a day old",
                series={_cronjob("status_last_successful_time", _BACKUP): "-86400x430"},
                at="2h",
            ),
        ),
        runbook=Runbook(
            meaning="No backup has succeeded for two days.",
            impact="Users notice nothing. If data is lost now, all changes since the last backup are lost as well.",
            diagnosis=(
                "`kubectl get cronjob,job -n NAMESPACE`: is it suspended, or does it fail (EmbedshipJobFailed)?",
                "Is the volume claim for backups full?",
            ),
            mitigation=("Run it now: `kubectl create job --from=cronjob/NAME again`.",),
        ),
    ),
)
