"""A small /dev/shm, a real one: an experiment in a process with a tmpfs of its own mounted there."""

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

    Linux ends a process that writes beyond the room with SIGBUS; the verdict then says so. Raises Refused where
    neither root nor a user may mount a tmpfs in a namespace of their own, and where the lab refuses.
    """
    command = [*namespace(mebibytes), sys.executable, "-m", module, *arguments, "--anyway", "--json"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", timeout=LIMIT)
    if name := signal_of(run.returncode):
        return Verdict("crashed", error=f"tokenizer killed by {name}")
    if run.returncode:
        raise Refused((run.stderr.strip().splitlines() or ["the lab gave no reason"])[-1])
    return Verdict.from_dict(json.loads(run.stdout))


def signal_of(status: int) -> str | None:
    """The signal that ended a process, by its exit status as Python or as a shell gives it; None if none did."""
    number = status - 128 if status > 128 else -status
    return signal.Signals(number).name if status and number in signal.valid_signals() else None


def namespace(mebibytes: int) -> list[str]:
    """The beginning of a command that runs with a /dev/shm of `mebibytes`. Raises Refused if that is not allowed."""
    mount = f"mount -t tmpfs -o size={mebibytes}m,mode=1777 tmpfs {SHM}"
    for unshare in NAMESPACES:
        try:
            if subprocess.run([*unshare, "sh", "-c", mount], capture_output=True, timeout=LIMIT).returncode == 0:
                return [*unshare, "sh", "-c", f'{mount} && exec "$@"', "sh"]
        except FileNotFoundError:
            break
    raise Refused(
        "nobody may mount a small /dev/shm here (unshare --mount)", "run this as root, or allow user namespaces"
    )
