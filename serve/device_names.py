"""What `--devices` may say. Pure, and read with the settings: it loads no numpy."""

from __future__ import annotations

import re

from embedship.errors import UsageError

HELP = (
    "auto or cpu: engine streams in this process; or names of devices, each of which gets a worker process that is "
    "watched and restarted: cpu:0,cpu:1 or cuda:0,cuda:1."
)

_NAME = re.compile(r"(cpu|cuda):(0|[1-9]\d{0,2})")
_IN_PROCESS = ("auto", "cpu")


def parse(text: str) -> tuple[str, ...]:
    """The devices that get a worker process; none: the streams run in this process.

    >>> parse("cuda:0,cuda:1")
    ('cuda:0', 'cuda:1')
    >>> parse("auto")
    ()
    """
    if text in _IN_PROCESS:
        return ()
    names = tuple(text.split(","))
    for name in names:
        if not _NAME.fullmatch(name):
            raise UsageError(f"--devices (EMBEDSHIP_DEVICES): {name!r} is no device; allowed is {HELP}")
        if names.count(name) > 1:
            raise UsageError(f"--devices (EMBEDSHIP_DEVICES): {name} is named twice; name it once")
    if len({name.split(":")[0] for name in names}) > 1:
        raise UsageError(f"--devices (EMBEDSHIP_DEVICES): {text} mixes kinds, whose vectors differ; name one kind")
    return names
