"""The files that living processes have open or mapped. This reads /proc itself, because the doctor must run on a Python
without psutil."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")


def held_inodes() -> set[tuple[int, int]]:
    """Device and inode of each file that a living process has open or mapped, for all processes that this user may
    inspect. Names are not enough: a semaphore is mapped under its temporary name, and a segment with several names
    under any of them."""
    held: set[tuple[int, int]] = set()
    for process in _processes():
        for line in _bytes(process / "maps").splitlines():
            major, minor = (int(part, 16) for part in line.split()[3].split(b":"))
            held.add((os.makedev(major, minor), int(line.split()[4])))
        held.update(filter(None, map(inode, _descriptors(process))))
    return held


def inode(path: str | Path) -> tuple[int, int] | None:
    """Device and inode of the file that a path leads to; None if the file is gone."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _processes() -> Iterator[Path]:
    """The /proc folders of the living processes."""
    return (path for path in (PROC.iterdir() if PROC.is_dir() else ()) if path.name.isdigit())


def _descriptors(process: Path) -> list[str]:
    try:
        return [entry.path for entry in os.scandir(process / "fd")]
    except OSError:  # gone, or another user's
        return []


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # gone, or another user's
        return b""
