"""Make a case: in this process, or in processes of its own."""

from __future__ import annotations

from repro.lab.cases import apart
from repro.lab.cases.case import Case
from repro.lab.cases.found import Found
from repro.lab.cases.stage import Stage
from repro.lab.cases.table import CASES
from repro.lab.lifted.pool import pool
from repro.lab.refused import Refused


def make(name: str) -> Found:
    """Make the case with this name, and return its result. Nothing is left in /dev/shm. Raises Refused if there is no
    such case, or if this machine cannot make it."""
    case = named(name)
    return apart.make(case) if case.apart else here(case)


def named(name: str) -> Case:
    """The case with this name. Raises Refused if there is none."""
    if name not in CASES:
        raise Refused(f"no case is called {name!r}", f"give one of {', '.join(CASES)}")
    return CASES[name]


def here(case: Case, stage: Stage | None = None) -> Found:
    """Make the case in this process, and return its result."""
    pool.warm_up()  # imports torch in another process, while this process imports it
    stage = stage or Stage()
    return Found.of(case.name, case.act(stage), stage)
