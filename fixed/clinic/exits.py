"""What is left when the scheduler was killed between send and open, and then the tokenizer ends.

`python -m fixed.clinic.exits exits DESIGN...` lets each design's scheduler be killed, prints which names each design
had made, and exits; the resource tracker then removes what it knows of. `... by_sglang` ends as a server does: by
sglang's own `kill_process_tree`, which kills the tracker, too; `... by_sigkill` ends by SIGKILL alone. The names are
counted by who started it, when all of it is gone.
"""

from __future__ import annotations

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
from repro.lab.engine.launcher import ROOT
from repro.lab.evidence.inotify import SHM
from repro.lab.lifted.pool import bench

SITUATIONS = {"scheduler killed": "exits", "server killed": "by_sglang"}  # what it is called -> how it ends
KILL = "sglang.srt.utils.common.kill_process_tree"
ALL = (AS_RELEASED, *DESIGNS, *MUTANTS)


def leaked(ending: str, designs: Sequence[Design] = ALL) -> dict[str, int]:
    """How many names each design leaves when the tokenizer ends so, by the design's name. They are removed. Designs
    that stand around `kill_process_tree` end by themselves: they may not tidy up for others."""
    tidy = [design.name for design in designs if KILL in design.hooks]
    others = [design.name for design in designs if design.name not in tidy]
    with ThreadPoolExecutor(2) as two:
        left, left_by_tidy = two.map(_leaked, (ending, ending), (others, tidy))
    return left | left_by_tidy


def _leaked(ending: str, designs: Sequence[str]) -> dict[str, int]:
    if not designs:
        return {}
    command = [sys.executable, "-m", "fixed.clinic.exits", ending, *designs]
    with tempfile.TemporaryDirectory(
        prefix="shm-kit-", ignore_cleanup_errors=True
    ) as folder:  # killed, they leave files
        surroundings = {**os.environ, "TMPDIR": folder}  # run returns when the tracker, which has the pipe, is gone
        ended = subprocess.run(command, cwd=ROOT, env=surroundings, capture_output=True, text=True)
    if not ended.stdout:
        raise RuntimeError(f"{' '.join(command[1:])} said nothing: {ended.stderr[-500:]}")
    made = {design: [SHM / name.lstrip("/") for name in names] for design, names in json.loads(ended.stdout).items()}
    left = {design: [path for path in paths if path.exists()] for design, paths in made.items()}
    for paths in left.values():
        for path in paths:
            path.unlink()
    return {design: len(paths) for design, paths in left.items()}


def names_of(design: Design) -> list[str]:
    """The names that a run of n = 3 makes whose scheduler is killed when the first sample is sent. They stay."""
    from repro.lab.lifted.experiment import run
    from repro.lab.lifted.request import make_request

    return run(make_request(shape=(8, 16)), n=3, die=("send", 1), sweep=False, **design.knobs).names


def main() -> None:
    """Make the names, say which, and end."""
    ending, *names = sys.argv[1:]
    bench.warm_up()
    designs = [design for design in ALL if design.name in names]
    print(json.dumps({design.name: names_of(design) for design in designs}), flush=True)
    if ending == "by_sigkill":
        os.kill(os.getpid(), signal.SIGKILL)
    if ending == "by_sglang":
        from repro.lab.upstream import standins

        kill = standins.process_tree().kill_process_tree
        for design in designs:
            if KILL in design.hooks:
                kill = standins.around(kill, design.hooks[KILL])
        kill(os.getpid())


if __name__ == "__main__":
    main()
