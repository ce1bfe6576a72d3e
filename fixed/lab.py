"""`python -m fixed.lab`: the lab's command (`python -m repro.lab`), with the designs of the fix by name (`--fix`)."""

from __future__ import annotations

import sys

from fixed.designs import COPIES, DESIGNS
from repro.lab import __main__ as lab

FIXES = {"detach": COPIES, **{design.name: design for design in DESIGNS}}

if __name__ == "__main__":
    sys.exit(lab.main(fixes=FIXES, prog="fixed.lab"))
