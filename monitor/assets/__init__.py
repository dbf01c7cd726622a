"""What Prometheus, Alertmanager and Grafana need to watch an embedship: generated, tested, shipped.

    service.py connections.py devices.py changes.py jobs.py quality.py pulse.py   the alerts
    rules.py cases.py runbooks.py dashboard.py   the same data as rules, promtool tests, Markdown, Grafana JSON

Change the data, then `make assets`.

    alert.py        what an alert is: expression, words, runbook, and series where it fires and where it does not
    cases.py        promtool's unit tests
    changes.py      The alert about an index that takes changes
    connections.py  The alert about connections
    dashboard.py    The panels as a Grafana dashboard
    devices.py      Alerts about single devices of an instance
    jobs.py         Alerts about the chart's CronJobs, from the metrics of kube-state-metrics
    options.py      what an operator may change in the rules
    panels.py       What the dashboard shows, as data
    pulse.py        Alerts about the monitor itself
    quality.py      Alerts about quality
    recording.py    the ratios they are built on
    rules.py        cases.py runbooks.py dashboard.py   the same data as rules, promtool tests, Markdown, Grafana JSON
    runbooks.py     The runbooks as Markdown
    service.py      connections.py devices.py changes.py jobs.py quality.py pulse.py   the alerts
    write.py        all of it as files; what it wrote lies in files/, and a test holds them in step
"""

from importlib.resources import files
from importlib.resources.abc import Traversable

# Where the runbooks lie, in every `runbook_url`; `embedship monitor init --runbooks URL` replaces it.
RUNBOOKS = "runbooks"


def shipped() -> dict[str, str]:
    """Every file, by its path inside the folder that `embedship monitor init` writes."""
    return dict(sorted(_texts(files(__name__) / "files", "")))


def _texts(folder: Traversable, prefix: str) -> list[tuple[str, str]]:
    found = []
    for each in folder.iterdir():
        path = prefix + each.name
        found += _texts(each, path + "/") if each.is_dir() else [(path, each.read_text(encoding="utf-8"))]
    return found
