"""`python -m repro.lab.cases.keeper CASE FOLDER DEVICE`: see `apart`. DEVICE is the device number of the caller's
/dev/shm. With one more word, the process is not the keeper: it makes the case itself."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

from repro.lab.cases.found import Found
from repro.lab.cases.making import here, named
from repro.lab.cases.stage import Stage, listed
from repro.lab.evidence import event, inotify
from repro.lab.evidence.verdict import Verdict
from repro.lab.lifted.small_shm import signal_of
from repro.lab.places import SHM
from repro.lab.refused import Refused
from repro.lab.releases import LAST

LIMIT = 100.0  # seconds


def main() -> int:
    """Returns 0 if `FOLDER/found` holds the result. Raises Refused if the case cannot be made here."""
    name, folder, device, *inner = sys.argv[1:]
    case, place = named(name), Path(folder)
    private = bool(case.mebibytes)
    if private and os.stat(SHM).st_dev == int(device):
        raise Refused("this /dev/shm is not the case's own")
    if not inner:
        return keep(place, private)
    if case.descriptors:
        resource.setrlimit(resource.RLIMIT_NOFILE, (case.descriptors, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    with inotify.watching() as account:
        found = here(case, Stage(private, record=str(place / "record")))
    if private:
        found.kernel = account.seen
    (place / "found").write_text(json.dumps(found.as_dict()), encoding="utf-8")
    return 0


def keep(place: Path, private: bool) -> int:
    """Make the case in a child process. When all its processes have ended, complete the result, and write it to
    `place`. Returns 0. Raises Refused if the processes do not end, or if the case cannot be made."""
    command = [sys.executable, "-m", "repro.lab.cases.keeper", *sys.argv[1:], "inner"]
    try:  # this call returns only when no process holds the pipes any more
        run = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=LIMIT)
    except subprocess.TimeoutExpired:
        raise Refused(f"the case did not end within {LIMIT:.0f} s", "try when the machine is less busy") from None
    if killed := signal_of(run.returncode):
        found = ended_by(killed, sys.argv[1], place)
        found.listing = listed() if private else "total 0\n"
    elif run.returncode:
        raise Refused((run.stderr.strip().splitlines() or ["the case gave no reason"])[-1])
    else:
        found = Found.from_dict(json.loads((place / "found").read_text(encoding="utf-8")))
    found.log = run.stdout + run.stderr + found.log
    (place / "found").write_text(json.dumps(found.as_dict()), encoding="utf-8")
    return 0


def ended_by(signal: str, name: str, place: Path) -> Found:
    """The result of a case whose process was ended by a signal: only the exit status and the recorder's file are
    known."""
    record = place / "record"
    events = event.events(event.lines(record.read_bytes() if record.exists() else b"")[0])
    error = f"tokenizer killed by {signal}"
    verdict = Verdict("crashed", n=1, error=error, release=LAST, events=[vars(each) for each in events], device="cpu")
    return Found(name, verdict, events, ["request"], faults=[f"crashed: {error}"])


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Refused as refusal:
        print(refusal, file=sys.stderr)
        sys.exit(2)
