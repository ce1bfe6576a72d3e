"""A case in processes of its own, with a /dev/shm of its own or fewer descriptors.

The keeper (`python -m repro.lab.cases.keeper`) starts the process in which the case is made. The keeper waits until
this process and all that it has started are gone, and then writes the result to a file. So there is a result even if a
signal ends the case's process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from repro.lab import folders
from repro.lab.cases.case import Case
from repro.lab.cases.found import Found
from repro.lab.lifted import small_shm
from repro.lab.places import ROOT, SHM
from repro.lab.refused import Refused

LIMIT = 120.0  # seconds
KEEPER = "repro.lab.cases.keeper"


def make(case: Case) -> Found:
    """Make the case in processes of its own, and return the result. Raises Refused if this machine does not allow what
    the case needs."""
    alone = small_shm.namespace(case.mebibytes) if case.mebibytes else []
    with folders.folder("case") as folder:
        command = [*alone, sys.executable, "-m", KEEPER, case.name, str(folder), str(os.stat(SHM).st_dev)]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", timeout=LIMIT)
        told = Path(folder, "found")
        if run.returncode or not told.exists():
            raise Refused((run.stderr.strip().splitlines() or ["the keeper gave no reason"])[-1])
        return Found.from_dict(json.loads(told.read_text(encoding="utf-8")))
