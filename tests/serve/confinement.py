"""Run a command as a strict container would: no root, no file system that can be written to, no way out.

    python confinement.py --read PATH... --write PATH... -- COMMAND

In a mount namespace of its own every file system is read-only but the WRITE folders; the kernel kills the process, and
any that it starts, at the first connect(2). Root becomes a user who owns nothing but those folders; any other user
stays itself. Exit code NOT_HERE: this system allows no such namespace.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import platform
import struct
import sys
from pathlib import Path

NOT_HERE = 77
USER = 64_321

_libc = ctypes.CDLL(None, use_errno=True)
_NEWNS, _NEWUSER = 0x0002_0000, 0x1000_0000  # <linux/sched.h>
_RDONLY, _REMOUNT, _BIND, _REC, _PRIVATE = 0x1, 0x20, 0x1000, 0x4000, 0x4_0000  # <linux/mount.h>
_NO_NEW_PRIVS, _SECCOMP, _FILTER = 38, 22, 2  # <linux/prctl.h>, <linux/seccomp.h>
_CONNECT = {"x86_64": 42, "aarch64": 203}  # its number, <asm/unistd.h>
# Options of a mount that may not be taken away in a user namespace.
_KEPT = {"nosuid": 0x2, "nodev": 0x4, "noexec": 0x8, "noatime": 0x400, "nodiratime": 0x800, "relatime": 0x20_0000}
_SYSTEM = ("/proc", "/sys")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--read", type=Path, action="append", default=[])
    parser.add_argument("--write", type=Path, action="append", default=[])
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    root = os.geteuid() == 0
    try:
        _own_namespace(root)
    except OSError as error:
        print(f"no namespace of its own: {error}", file=sys.stderr)
        raise SystemExit(NOT_HERE) from None
    if root:
        _open_the_way([Path(sys.base_prefix), *options.read, *options.write])
    _read_only(options.write, root)
    if root:
        os.setgroups([])
        os.setgid(USER)
        os.setuid(USER)
    os.chdir("/")
    _no_way_out()
    os.execv(options.command[0], options.command)


def _own_namespace(root: bool) -> None:
    user, group = os.getuid(), os.getgid()
    _call("unshare", _NEWNS if root else _NEWNS | _NEWUSER)
    if not root:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    _mount(None, "/", _REC | _PRIVATE)


def _open_the_way(paths: list[Path]) -> None:
    """Put empty folders over those that only root may enter, and in them, at their own places, what is needed."""
    kept = {path.resolve(): os.open(path.resolve(), os.O_PATH) for path in paths}
    for barred in {each for each in map(_barred, kept) if each}:
        _mount("tmpfs", str(barred), 0, "tmpfs", "mode=755")
    for path, descriptor in kept.items():
        if not path.exists():
            path.mkdir(parents=True)
            _mount(f"/proc/self/fd/{descriptor}", str(path), _BIND | _REC)


def _barred(path: Path) -> Path | None:
    """The first folder on the way there that only root may enter."""
    return next((each for each in reversed(path.parents) if not each.stat().st_mode & 0o001), None)


def _read_only(writable: list[Path], root: bool) -> None:
    for path in writable:
        _mount(str(path), str(path), _BIND)
        if root:
            os.chown(path, USER, USER)
    spared = {str(path.resolve()) for path in writable}
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, written, _, options, *_ = line.split()
        place = written.encode().decode("unicode_escape")
        if place not in spared and not place.startswith(_SYSTEM):
            kept = sum(_KEPT.get(option, 0) for option in options.split(","))
            _mount(None, place, _REMOUNT | _BIND | _RDONLY | kept)


def _no_way_out() -> None:
    code = b"".join(
        struct.pack("=HBBI", *instruction)
        for instruction in (
            (0x20, 0, 0, 0),  # load the number of the system call
            (0x15, 0, 1, _CONNECT[platform.machine()]),  # connect?
            (0x06, 0, 0, 0x8000_0000),  # yes: kill the process, by SIGSYS
            (0x06, 0, 0, 0x7FFF_0000),  # no: go on
        )
    )
    held = ctypes.create_string_buffer(code)
    program = ctypes.create_string_buffer(struct.pack("HP", len(code) // 8, ctypes.addressof(held)))
    _call("prctl", _NO_NEW_PRIVS, 1, 0, 0, 0)
    _call("prctl", _SECCOMP, _FILTER, program, 0, 0)


def _mount(source: str | None, target: str, flags: int, kind: str | None = None, options: str | None = None) -> None:
    texts = [text.encode() if text else None for text in (source, target, kind, options)]
    _call("mount", texts[0], texts[1], texts[2], ctypes.c_ulong(flags), texts[3])


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}{arguments}: {os.strerror(number)}")


if __name__ == "__main__":
    main()
