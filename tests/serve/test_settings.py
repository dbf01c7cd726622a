from __future__ import annotations

import inspect
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from embedship.batches import BUDGET
from embedship.errors import UsageError
from embedship.serve.commands import serve
from embedship.serve.settings import RANGES, Settings

HERE = Settings(bundle=Path("bundle"))


@pytest.mark.parametrize("name", RANGES)
def test_a_bad_value_is_named_with_its_key_and_range(name: str) -> None:
    allowed = RANGES[name]
    with pytest.raises(UsageError) as caught:
        replace(HERE, **{name: allowed.high + 1})
    for part in (f"--{name.replace('_', '-')}", f"EMBEDSHIP_{name.upper()}", f"{allowed.high + 1}", str(allowed)):
        assert part in str(caught.value)


def test_requests_that_could_never_enter_are_noticed_at_start() -> None:
    with pytest.raises(UsageError, match="can never be accepted"):
        replace(HERE, max_texts=100, queue_texts=100)


def test_flag_variable_and_setting_have_one_name_and_one_default() -> None:
    parameters = inspect.signature(serve.serve, eval_str=True).parameters
    assert list(parameters) == [field.name for field in fields(Settings)]
    for name, parameter in list(parameters.items())[1:]:
        assert parameter.default == getattr(HERE, name), name
        (option,) = parameter.annotation.__metadata__
        assert (option.default, option.envvar) == ("--" + name.replace("_", "-"), "EMBEDSHIP_" + name.upper())


def test_the_log_names_what_differs_from_the_defaults() -> None:
    changed = replace(HERE, port=1, index=Path("index"))
    assert changed.lines() == ["bundle = bundle", "index = index", "port = 1"]
    assert len(changed.lines(every=True)) == len(fields(Settings))


@pytest.mark.parametrize(
    ("index", "keys", "curl"),
    [
        (None, [], "http://host/v1/embeddings -H 'Content-Type: application/json' -d '{\"input\": \"a text\"}'"),
        (
            Path("i"),
            ["key"],
            "http://host/search -H 'Authorization: Bearer KEY' -H 'Content-Type: ",
        ),
    ],
)
def test_the_banner_has_the_addresses_and_a_first_request(index: Path | None, keys: list[str], curl: str) -> None:
    from embedship.serve.main import _banner

    state: Any = SimpleNamespace(settings=replace(HERE, index=index), keys=keys)
    pages, request = _banner(state, "http://host")
    assert pages == "quality: http://host/monitor/ui, API: http://host/openapi.json, metrics: http://host/metrics"
    assert request.startswith(f"try: curl {curl}")


def test_a_budget_of_false_alarms_that_says_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--false-alarms \(EMBEDSHIP_FALSE_ALARMS\): .*'often'.*1 per 30 days"):
        replace(HERE, false_alarms="often")


def test_a_batch_holds_what_was_measured_best() -> None:
    """Said twice, for settings must not load numpy and plan needs it."""
    assert HERE.batch_tokens == BUDGET


def test_settings_load_no_numpy() -> None:
    """`serve` tells the BLAS of numpy how many threads to start, which it hears only before it is loaded."""
    code = "import sys, embedship.serve.commands.serve; print('numpy' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True).stdout
        == "False\n"
    )
