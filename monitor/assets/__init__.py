"""What Prometheus, Alertmanager and Grafana need to watch an embedship: generated, tested, shipped.

    alert.py       what an alert is: expression, words, runbook, and series where it fires and where it does not
    service.py connections.py devices.py changes.py jobs.py quality.py pulse.py   the alerts
    recording.py   the ratios they are built on
    rules.py cases.py runbooks.py dashboard.py   the same data as rules, promtool tests, Markdown, Grafana JSON
    options.py     what an operator may change in the rules
    write.py       all of it as files; what it wrote lies in files/, and a test holds them in step

Change the data, then `make assets`.
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
