"""Alert rules, runbooks and the dashboard for Prometheus, Alertmanager and Grafana: generated, tested and shipped.

Change the data, then run `make assets`.

alert.py         Alert: expression, texts, runbook, and series on which it fires or must not fire
availability.py  alerts about availability: instances that are down, failed requests
load.py          alerts about load: full queues, slow requests, restarts
connections.py   the alert about connections
devices.py       alerts about single devices of an instance
changes.py       the alert about an index that accepts changes
jobs.py          alerts about the chart's CronJobs
quality.py       alerts about the quality of vectors, index and model
pulse.py         alerts that fire when the monitor itself stops working
recording.py     the ratios that the alerts use
rules.py         output: the rule file
cases.py         output: promtool unit tests
runbooks.py      output: the runbooks as Markdown
panels.py        the dashboard as data
dashboard.py     output: the dashboard as Grafana JSON
options.py       what an operator can change in the rules
write.py         writes the folder files/; a test checks that it is up to date
"""

from importlib.resources import files
from importlib.resources.abc import Traversable

# The prefix of every `runbook_url`; `embedship monitor init --runbooks URL` replaces it.
RUNBOOKS = "runbooks"


def shipped() -> dict[str, str]:
    """Return the texts of all files by path, as `embedship monitor init` writes them."""
    return dict(sorted(_texts(files(__name__) / "files", "")))


def _texts(folder: Traversable, prefix: str) -> list[tuple[str, str]]:
    texts = []
    for each in folder.iterdir():
        path = prefix + each.name
        texts += _texts(each, path + "/") if each.is_dir() else [(path, each.read_text(encoding="utf-8"))]
    return texts
