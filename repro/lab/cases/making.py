"""Make a case: in this process, or in one of its own."""

from __future__ import annotations

from repro.lab.cases import apart
from repro.lab.cases.case import Case
from repro.lab.cases.found import Found
from repro.lab.cases.stage import Stage
from repro.lab.cases.table import CASES
from repro.lab.lifted.pool import pool
from repro.lab.refused import Refused


def make(name: str) -> Found:
    """What came of the case of that name, made now. Nothing is left behind. Raises Refused if there is no such case, or
    if this machine cannot make it."""
    case = named(name)
    return apart.make(case) if case.apart else here(case)


def named(name: str) -> Case:
    """The case of that name. Raises Refused if there is none."""
    if name not in CASES:
        raise Refused(f"no case is called {name!r}", f"give one of {', '.join(CASES)}")
    return CASES[name]


def here(case: Case, stage: Stage | None = None) -> Found:
    """The case, made in this process."""
    pool.warm_up()  # imports torch in another process, while this one does
    stage = stage or Stage()
    return Found.of(case.name, case.act(stage), stage)
