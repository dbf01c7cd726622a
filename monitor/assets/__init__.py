"""Alert rules, runbooks and the dashboard for Prometheus, Alertmanager and Grafana: generated, tested and shipped.

    alert.py       Alert: expression, texts, runbook, and series on which it fires or must not fire
    service.py connections.py devices.py changes.py jobs.py quality.py pulse.py   the alerts
    recording.py   the ratios that the alerts use
    rules.py cases.py runbooks.py dashboard.py   output as rules, promtool tests, Markdown and Grafana JSON
    options.py     what an operator can change in the rules
    write.py       writes the folder files/; a test checks that it is up to date

Change the data, then `make assets`.
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
