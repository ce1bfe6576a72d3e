"""A small /dev/shm, a real one: an experiment in a process with a tmpfs of its own mounted there."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence

from repro.lab.engine.launcher import ROOT
from repro.lab.evidence.verdict import Leftovers, Refused, Seconds, Verdict

NAMESPACES = (["unshare", "--mount"], ["unshare", "--user", "--map-root-user", "--mount"])


def lab(arguments: Sequence[str], *, mebibytes: int) -> Verdict:
    """The verdict of `python -m repro.lab ARGUMENTS --json` with a /dev/shm of `mebibytes`.

    Linux ends a process that writes beyond the room with SIGBUS; the verdict then says so. Raises Refused where
    neither root nor a user may mount a tmpfs in a namespace of their own.
    """
    command = [*namespace(mebibytes), sys.executable, "-m", "repro.lab", *arguments, "--json"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    status = run.returncode - 128 if run.returncode > 128 else -run.returncode  # the shell's way and Python's
    if run.returncode and status in signal.valid_signals():
        return Verdict("crashed", error=f"tokenizer killed by {signal.Signals(status).name}")
    if run.returncode:
        raise Refused((run.stderr.strip().splitlines() or ["the lab gave no reason"])[-1])
    told = json.loads(run.stdout)["verdict"]
    told["seconds"], told["leftovers"] = Seconds(**told["seconds"]), Leftovers(**told["leftovers"])
    return Verdict(**told)


def namespace(mebibytes: int) -> list[str]:
    """The beginning of a command that runs with a /dev/shm of `mebibytes`. Raises Refused if that is not allowed."""
    mount = f"mount -t tmpfs -o size={mebibytes}m,mode=1777 tmpfs /dev/shm"
    for unshare in NAMESPACES:
        try:
            if subprocess.run([*unshare, "sh", "-c", mount], capture_output=True).returncode == 0:
                return [*unshare, "sh", "-c", f'{mount} && exec "$@"', "sh"]
        except FileNotFoundError:
            break
    raise Refused("nobody may mount a small /dev/shm here (unshare --mount): run as root, or allow user namespaces")
