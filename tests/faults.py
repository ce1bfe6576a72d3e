"""`python -m tests.faults N SEED`: N runs of the lab in one process. In most runs something goes wrong: a fault, a
scheduler that is killed at any moment, Ctrl-C at any moment, or code that loops. /dev/shm also holds other programs'
names of many forms. Prints as JSON which runs hung, which names were left or touched, and every other fault."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from fixed.designs import COPIES, DESIGNS, WARM_SEGMENTS
from fixed.mutants import MUTANTS
from repro.lab.lifted import Fault, make_request, run
from repro.lab.lifted.fault import MOMENTS
from repro.lab.lifted.pool import pool
from repro.lab.places import SHM
from tests import own_shm

LOOKS = ("psm_{}", "sgl_shm_mm_{}_1_abc", "sem.mp-{}", "sglang_{}", "plain {}", "torch_{}_shm", "é{}", ".hidden{}")
FOREIGN = 50
TIMEOUT = 3.0  # seconds that a run is given ...
LIMIT = TIMEOUT + 12.0  # ... and in which it has to end whatever happens


def loops(request: object) -> None:
    """Never ends."""
    while True:
        pass


def foreign(dice: random.Random) -> dict[str, tuple]:
    """Make names of many forms that are not the lab's: files, links and folders. Returns what `looked_at` says of
    them."""
    for number in range(FOREIGN):
        path = SHM / dice.choice(LOOKS).format(f"{dice.getrandbits(32):08x}")
        kind = number % 10
        if kind == 0:
            path.mkdir()
        elif kind == 1:
            path.symlink_to("/etc/hostname")
        else:
            path.write_bytes(dice.randbytes(kind))
    return looked_at()


def looked_at() -> dict[str, tuple]:
    """Each name in /dev/shm with its inode, its mode, its size and the time of its last change."""
    found = {}
    for path in SHM.iterdir():
        status = path.lstat()
        found[path.name] = status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns
    return found


@contextlib.contextmanager
def after(seconds: float, do: Callable[[], None]) -> Iterator[None]:
    """A context in which `do()` happens after so many seconds, unless the context has ended by then."""
    timer = threading.Timer(seconds, do)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def interrupt() -> None:
    """Ctrl-C."""
    os.kill(os.getpid(), signal.SIGINT)


def kill_a_scheduler() -> None:
    """Kill one of this process's schedulers from outside, by SIGKILL, at work or idle. (The warm parent, a child of
    this process, has forked them.)"""
    with contextlib.suppress(psutil.Error):
        below = psutil.Process().children(recursive=True)
        workers = [child for child in below if child.ppid() != os.getpid()]
        if workers:
            random.choice(workers).kill()


def one(dice: random.Random) -> str:
    """Make one run in which something or nothing goes wrong. Returns the name of the fault."""
    what = dice.choice(("nothing", "fault", "fault", "kill", "interrupt", "interrupt", "loop"))
    loop = what == "loop" and dice.random() < 0.2
    fault = None
    if what == "fault":
        kind = dice.choice(list(MOMENTS))
        fault = Fault(kind, at=dice.choice(MOMENTS[kind]), send=dice.randrange(4))
    fix = loops if loop else dice.choice((None, COPIES, *DESIGNS, *MUTANTS))
    request = make_request(dice.choice(("tensor", "list", "numpy", "text")), shape=(4, 8), items=dice.choice((1, 2)))
    knobs = {"n": dice.randint(1, 5), "ranks": dice.choice((1, 1, 1, 2)), "late": dice.choice((0.0, 0.0, 0.01))}
    trouble = {"kill": kill_a_scheduler, "interrupt": interrupt}.get(what)
    moment = dice.random() * 0.08
    if trouble is None:
        run(request, fix=fix, fault=fault, timeout=0.3 if loop else TIMEOUT, **knobs)
        return what
    with contextlib.suppress(KeyboardInterrupt), after(moment, trouble):
        run(request, fix=fix, timeout=TIMEOUT, **knobs)
    return what


def main() -> None:
    """Run, and print what came of it."""
    count, dice = int(sys.argv[1]), random.Random(int(sys.argv[2]))
    own_shm.enter()
    random.seed(dice.random())
    lies = foreign(dice)
    troubles: collections.Counter = collections.Counter()
    hung, left, wrong = [], [], []
    for number in range(count):
        began = time.monotonic()
        what = "interrupt"
        try:
            what = one(dice)
        except KeyboardInterrupt:  # Ctrl-C came a moment too late, after the run
            pass
        except Exception as error:
            wrong.append(f"{number}: {type(error).__name__}: {error}")
        troubles[what] += 1
        if (took := time.monotonic() - began) > LIMIT:
            hung.append(f"{number}: {what} took {took:.1f} s")
        if new := set(os.listdir(SHM)) - set(lies) - set(WARM_SEGMENTS.kept()):
            left.append(f"{number}: {what} left {', '.join(sorted(new))}")
            for name in new:
                (SHM / name).unlink()
    last = run(n=2, fix=COPIES).faults()
    pool.close()
    WARM_SEGMENTS.drain()
    left += [f"the end: {name}" for name in set(os.listdir(SHM)) - set(lies)]
    print(
        json.dumps(
            {
                "runs": count,
                "troubles": troubles,
                "hung": hung,
                "left": left,
                "wrong": wrong,
                "touched": sorted(set(lies.items()) ^ set(looked_at().items())),
                "foreign": len(lies),
                "threads": [thread.name for thread in threading.enumerate() if thread.name == "tokenizer"],
                "folders": [path.name for path in Path(tempfile.gettempdir()).glob("shm-kit-*")],
                "last": last,
            }
        )
    )


if __name__ == "__main__":
    main()
