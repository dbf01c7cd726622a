"""Write all assets: `python -P -m embedship.monitor.assets.write FOLDER`. The same data gives the same bytes."""

import sys
from pathlib import Path

from embedship.monitor.assets.cases import RULES, promtool_cases
from embedship.monitor.assets.dashboard import dashboard
from embedship.monitor.assets.rules import rules
from embedship.monitor.assets.runbooks import runbooks


def assets() -> dict[str, str]:
    """Every file by its path, as `shipped` gives them."""
    texts = {RULES: rules(), "rules.test.yaml": promtool_cases(), "dashboard.json": dashboard()}
    texts |= {f"runbooks/{name}": text for name, text in runbooks().items()}
    return dict(sorted(texts.items()))


def write(folder: Path) -> None:
    """Write into folder, and remove what an earlier version left there."""
    texts = assets()
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for path in folder.rglob("*"):
        if path.is_file() and path.relative_to(folder).as_posix() not in texts:
            path.unlink()


if __name__ == "__main__":
    write(Path(sys.argv[1]))
