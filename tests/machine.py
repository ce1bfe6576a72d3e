"""What tests need of the machine: processes, names in /dev/shm, and the commands of this repository."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from repro.lab.engine.host import Host
from repro.lab.evidence import recorder

ROOT = Path(__file__).resolve().parents[1]
SHM = Path("/dev/shm")


def names() -> set[str]:
    """The names in /dev/shm."""
    return set(os.listdir(SHM))


def left_since(before: set[str]) -> set[str]:
    """The names in /dev/shm that were not there `before` and stay. If other programs use the same /dev/shm, only the
    names in the suite's own ledger count."""
    until = time.monotonic() + 3
    while (left := (names() - before) & _ours()) and time.monotonic() < until:
        time.sleep(0.1)
    return left


def _ours() -> set[str]:
    ledger = os.environ.get(recorder.LEDGER)
    if not ledger:
        return names()
    return {line.rpartition(" ")[0] for line in Path(ledger).read_text(encoding="utf-8").splitlines()}  # name, inode


def processes_of(folder: Path) -> list[int]:
    """The living processes of a run with its temporary files below `folder`. Their environment names the folder. (A
    process keeps its environment even if its title changes.)"""
    mine = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and str(folder).encode() in (entry / "environ").read_bytes():
                mine.append(int(entry.name))
        except OSError:
            pass
    return mine


def children_running(word: str) -> list[psutil.Process]:
    """The living processes below this one with `word` in their command line. Another process may end meanwhile."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # a zombie, too
            found += [child] * any(word in each for each in child.cmdline())
    return found


def command(
    *words: object,
    folder: Path | None = None,
    python: str = sys.executable,
    on: Host | None = None,
    typed: str = "",
    **environment: str,
) -> subprocess.CompletedProcess:
    """Run a script or module of this repository to its end; text of stdout and stderr, and the exit status.
    `folder` is where the run puts its temporary files, `on` the host of its engine, `typed` what is on its stdin."""
    return subprocess.run(
        [python, *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        timeout=500,
        input=typed,
        **on_host(on, folder, **environment),
    )


def start(code: str, folder: Path, **pipes: Any) -> subprocess.Popen:
    """A Python of its own that runs `code`, with its temporary files below `folder`."""
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=surroundings(folder), **pipes)


def on_host(host: Host | None, folder: Path | None, **environment: str) -> dict[str, Any]:
    """The arguments for `subprocess` with which a script boots its engines on `host`."""
    if host is None:
        return {"env": surroundings(folder, **environment)}
    return {"env": surroundings(folder, **host.address, **environment), "pass_fds": [host.socket.fileno()]}


def surroundings(folder: Path | None, **environment: str) -> dict[str, str]:
    """This process's environment with `TMPDIR` in `folder`, and `environment` added."""
    return {**os.environ, **({"TMPDIR": str(folder)} if folder else {}), **environment}


def wait_for(condition: Callable[[], object], seconds: float, what: str) -> object:
    """Wait until `condition` returns something true, and return it. Fails after `seconds`."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"waited {seconds} s for {what}")
