"""Device addresses, as engines, server settings and chart users write them: all are parsed by one function."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from embedship.device import DeviceAddress, DeviceKind, parse_devices
from embedship.errors import UsageError
from embedship.serve.settings import Settings


@pytest.mark.parametrize(
    ("text", "device"),
    [("cpu", "cpu:0"), ("cpu:1", "cpu:1"), ("cuda:3", "cuda:3"), ("gpu", "gpu:0"), ("tensorrt:0", "tensorrt:0")],
)
def test_devices_are_written_as_people_write_them(text: str, device: str) -> None:
    assert str(DeviceAddress.parse(text)) == device


@pytest.mark.parametrize(
    "text", ["", "tpu", "cuda:", "cuda:x", "cuda:-1", "cuda:01", "cuda:\u0663", "CUDA:0", "cpu,cuda"]
)
def test_what_is_no_device_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a device: write cpu, cuda, tensorrt, gpu"):
        DeviceAddress.parse(text)


@pytest.mark.parametrize("kind", DeviceKind)
def test_a_server_takes_every_kind_that_engines_know(kind: DeviceKind) -> None:
    here = Settings(bundle=Path("bundle"), devices=f"{kind}:0,{kind}:1")
    assert here.workers == (DeviceAddress(kind, 0), DeviceAddress(kind, 1))


@pytest.mark.parametrize("text", ["auto", "cpu"])
def test_without_names_the_streams_run_in_the_server(text: str) -> None:
    assert Settings(bundle=Path("bundle"), devices=text).workers == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cuda,cuda:0", "cuda:0 is named twice; name it once"),
        ("cpu:0,cuda:0", "cpu:0,cuda:0 mixes kinds of devices, whose vectors differ: name devices of one kind"),
        ("cpu:0,", "'' is not a device"),
        ("cpu:0,auto", "'auto' is not a device"),
    ],
)
def test_several_are_of_one_kind_and_each_once(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_devices(text)
    with pytest.raises(UsageError, match=rf"--devices \(EMBEDSHIP_DEVICES\): {said}"):
        Settings(bundle=Path("bundle"), devices=text)


def test_names_load_no_numpy() -> None:
    code = "import sys, embedship.device; print('numpy' in sys.modules)"
    command = [sys.executable, "-P", "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"
