"""Alerts about the chart's CronJobs, from the metrics of kube-state-metrics; without these, they are silent."""

from embedship.monitor.assets.alert import Alert, AlertCase, AlertSeverity, Runbook

CRONJOBS = ".*embedship.*-(check|drift|backup)"
BACKUPS = ".*embedship.*-backup"
BACKUP_AGE_SECONDS = 2 * 86_400

_BY = "by (namespace, cronjob)"


def _succeeded(names: str) -> str:
    """When a CronJob last succeeded; when it was made, if it never did."""
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
        summary="{{ $labels.cronjob }} in {{ $labels.namespace }} does not succeed",
        description="The CronJob {{ $labels.cronjob }} in {{ $labels.namespace }} was started, and no run has "
        "succeeded since, for an hour.",
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
                name="it runs every ten minutes, each for two",
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
            meaning="A CronJob of the chart (check, drift report or backup) was started, and no run succeeded for an "
            "hour after that.",
            impact="Users notice nothing. What the job does is not done: no backup, no report, or the golden texts do "
            "not get their vectors.",
            diagnosis=(
                "`kubectl get jobs -n NAMESPACE`, then `kubectl logs job/NAME`: its last line says why.",
                "`check`: does EmbedshipCanaryFailed fire as well? A check that fails alone cannot reach the server.",
            ),
            mitigation=(
                "Mend what the log names: a claim that is full, a key, a network policy.",
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
            impact="None until something is lost: then all changes since the last backup are lost as well.",
            diagnosis=(
                "`kubectl get cronjob,job -n NAMESPACE`: is it suspended, or does it fail (EmbedshipJobFailed)?",
                "Is the claim that takes the backups full?",
            ),
            mitigation=("Run it now: `kubectl create job --from=cronjob/NAME again`.",),
        ),
    ),
)
