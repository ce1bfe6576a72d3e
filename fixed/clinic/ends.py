"""The measurements that end processes, and so need processes of their own: how many names a killed server leaves, and
what a /dev/shm that is too small does.

`python -m fixed.clinic.ends exits DESIGN...` runs each design, kills its scheduler, prints the names that each design
has made, and exits. The resource tracker then removes the names that it knows. With `by_sglang` in the place of
`exits`, the process ends as a server does: by sglang's own `kill_process_tree`, which kills the tracker, too. With
`by_sigkill`, the process ends by SIGKILL alone. The caller counts the names when all of these processes are gone.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from fixed.designs import DESIGNS, Design
from fixed.mutants import AS_RELEASED, MUTANTS
from repro.lab import lifted
from repro.lab.evidence.verdict import Verdict
from repro.lab.lifted import Fault, make_request, small_shm
from repro.lab.lifted.pool import pool
from repro.lab.places import ROOT, SHM
from repro.lab.refused import Refused
from repro.lab.upstream.plugs import KILL, around
from repro.lab.upstream.release import Release
from repro.lab.upstream.source import INSTALLED

SITUATIONS = {"scheduler killed": "exits", "server killed": "by_sglang"}  # situation -> ending
ALL = (AS_RELEASED, *DESIGNS, *MUTANTS)
LIMIT = 300.0  # seconds
MEBIBYTES, SIZE, N = 64, 1120, 8  # Docker's default; an image's side in pixels (a feature of 30 MB), and its samples
SLOW = ["--ranks", "2", "--late", "0.6"]  # slow consumers, as real ones are: so segments pile up


def leaked(ending: str, designs: Sequence[Design] = ALL) -> dict[str, int]:
    """Return how many names each design leaves, by the design's name, if the tokenizer's process ends by `ending`:
    `exits`, `by_sglang` or `by_sigkill`. Removes these names. A design with a hook around `kill_process_tree` gets a
    process of its own, because this hook would also remove the names of other designs."""
    tidy = [[design.name] for design in designs if KILL in design.hooks]
    others = [design.name for design in designs if KILL not in design.hooks]
    counted: dict[str, int] = {}
    with ThreadPoolExecutor(2) as two:
        for left in two.map(functools.partial(leaked_together, ending), [*tidy, *([others] if others else [])]):
            counted |= left
    return counted


def leaked_together(ending: str, designs: Sequence[str]) -> dict[str, int]:
    """As `leaked`, for the designs of these names, all in one process. Raises RuntimeError if the process prints
    nothing."""
    command = [sys.executable, "-m", "fixed.clinic.ends", ending, *designs]
    with tempfile.TemporaryDirectory(
        prefix="shm-kit-", ignore_cleanup_errors=True
    ) as folder:  # killed processes leave files there
        surroundings = {**os.environ, "TMPDIR": folder}
        # subprocess.run reads a pipe that the resource tracker has, too. So it returns after the tracker's end.
        ended = subprocess.run(
            command, cwd=ROOT, env=surroundings, capture_output=True, encoding="utf-8", timeout=LIMIT
        )
    if not ended.stdout:
        raise RuntimeError(f"{' '.join(command[1:])} said nothing: {ended.stderr[-500:]}")
    made = {design: [SHM / name.lstrip("/") for name in names] for design, names in json.loads(ended.stdout).items()}
    left = {design: [path for path in paths if path.exists()] for design, paths in made.items()}
    for paths in left.values():
        for path in paths:
            path.unlink()
    return {design: len(paths) for design, paths in left.items()}


def in_a_small_room() -> dict[str, str]:
    """Return the result of each design in a /dev/shm of 64 MiB, by the design's name: `8 answers`, or the signal or
    error that ended the run, such as `SIGBUS`. Return an empty dict where a small /dev/shm cannot be mounted. Two
    designs run at a time."""
    try:
        small_shm.namespace(MEBIBYTES)
    except Refused:
        return {}
    with ThreadPoolExecutor(2) as two:
        names = [design.name for design in DESIGNS]
        return dict(zip(names, two.map(_in_a_small_room, names), strict=True))


def _in_a_small_room(design: str) -> str:
    arguments = ["--n", str(N), "--size", str(SIZE), "--fix", design, *SLOW]
    return _told(small_shm.lab(arguments, mebibytes=MEBIBYTES, module="fixed.lab"))


def _told(verdict: Verdict) -> str:
    if verdict.outcome == "survived":
        return f"{len(verdict.answers)} answers"
    return (verdict.error or verdict.outcome).removeprefix("tokenizer killed by ")


def names_of(design: Design) -> list[str]:
    """Run the design with n = 3, kill the scheduler when the first sample is sent, and return the names that the run
    has made. The names are not removed."""
    request = make_request(shape=(8, 16))
    return lifted.run(request, n=3, fix=design, fault=Fault("kill", at="send", send=1), sweep=False).names


def main() -> None:
    """Make the names of the given designs, print them as JSON, and end in the given way."""
    ending, *names = sys.argv[1:]
    pool.warm_up()
    designs = [design for design in ALL if design.name in names]
    print(json.dumps({design.name: names_of(design) for design in designs}), flush=True)
    if ending == "by_sigkill":
        os.kill(os.getpid(), signal.SIGKILL)
    if ending == "by_sglang":
        kill = Release.of(INSTALLED).process_tree.kill_process_tree
        for design in designs:
            if KILL in design.hooks:
                kill = around(kill, design.hooks[KILL])
        kill(os.getpid())


if __name__ == "__main__":
    main()
