"""`python -m tests.kill_windows`: one process for each call by which design 5 makes and removes names. Each process is
killed by SIGKILL right after its call. Prints as JSON, for each, the call, and the names that are left when the
process's resource tracker is gone, too.

`python -m tests.kill_windows KILLED_AT`: that process.
"""

from __future__ import annotations

import _posixshmem
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from multiprocessing import resource_tracker
from typing import Any

LINKS = 3


def main() -> None:
    """A process a call, until one is not killed any more."""
    if len(sys.argv) == 2:
        return make_and_remove(int(sys.argv[1]))
    told = []
    for number in itertools.count(1):
        child = subprocess.run(
            [sys.executable, "-m", __spec__.name, str(number)], capture_output=True, encoding="utf-8"
        )
        if child.returncode != -signal.SIGKILL:
            return print(json.dumps({"killed": told, "at_last": child.stderr}))
        *_, call, pid = child.stdout.split()
        left = [name for name in os.listdir("/dev/shm") if name.startswith(f"sgl_shm_mm_{pid}_")]
        for name in left:
            os.unlink(f"/dev/shm/{name}")
        told.append([call, len(left)])


def make_and_remove(killed_at: int) -> None:
    """Make a segment with names, and remove them all; but be killed after so many of the calls that count. (The parent
    waits for the tracker, too: it has the pipe to the parent.)"""
    calls = itertools.count(1)

    def counted(original: Callable) -> Callable:
        def call(*arguments: Any, **named: Any) -> Any:
            answer = original(*arguments, **named)
            if next(calls) == killed_at:
                print(original.__name__, os.getpid(), flush=True)
                os.kill(os.getpid(), signal.SIGKILL)
            return answer

        return call

    for holder, name in (
        *((resource_tracker, name) for name in ("register", "unregister")),
        *((os, name) for name in ("link", "unlink")),
        (_posixshmem, "shm_open"),
    ):
        setattr(holder, name, counted(getattr(holder, name)))
    from fixed.designs import one_segment_many_names, shm_names

    segment = shm_names.created(shm_names.new_name(), 4096)
    segment.close()
    names = [segment.name]
    one_segment_many_names.add_names(names, LINKS)
    shm_names.remove(names)


if __name__ == "__main__":
    main()
