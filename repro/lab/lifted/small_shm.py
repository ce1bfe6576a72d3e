"""A real /dev/shm that is small: an experiment in a process that has its own tmpfs mounted there."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence

from repro.lab.evidence.verdict import Verdict
from repro.lab.places import ROOT, SHM
from repro.lab.refused import Refused

NAMESPACES = (["unshare", "--mount"], ["unshare", "--user", "--map-root-user", "--mount"])
LIMIT = 300.0  # seconds


def lab(arguments: Sequence[str], *, mebibytes: int, module: str = "repro.lab") -> Verdict:
    """The verdict of `python -m MODULE ARGUMENTS --anyway --json` with a /dev/shm of `mebibytes`.

    If a process writes beyond the room, Linux ends it with SIGBUS, and the verdict says so. Raises Refused if this
    machine allows neither root nor a user to mount a tmpfs in a namespace of its own, or if the lab itself refuses.
    """
    command = [*namespace(mebibytes), sys.executable, "-m", module, *arguments, "--anyway", "--json"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", timeout=LIMIT)
    if name := signal_of(run.returncode):
        return Verdict("crashed", error=f"tokenizer killed by {name}")
    if run.returncode:
        raise Refused((run.stderr.strip().splitlines() or ["the lab gave no reason"])[-1])
    return Verdict.from_dict(json.loads(run.stdout))


def signal_of(status: int) -> str | None:
    """The signal that ended a process, read from an exit status of Python or of a shell; None if no signal did."""
    number = status - 128 if status > 128 else -status
    return signal.Signals(number).name if status and number in signal.valid_signals() else None


def namespace(mebibytes: int) -> list[str]:
    """The first words of a command that gives its program a /dev/shm of `mebibytes`. Raises Refused if the machine does
    not allow this."""
    mount = f"mount -t tmpfs -o size={mebibytes}m,mode=1777 tmpfs {SHM}"
    for unshare in NAMESPACES:
        try:
            if subprocess.run([*unshare, "sh", "-c", mount], capture_output=True, timeout=LIMIT).returncode == 0:
                return [*unshare, "sh", "-c", f'{mount} && exec "$@"', "sh"]
        except FileNotFoundError:
            break
    raise Refused(
        "a small /dev/shm is not allowed here (unshare --mount)", "run this as root, or allow user namespaces"
    )
