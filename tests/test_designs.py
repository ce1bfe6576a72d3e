"""Every design of the fix is right, and the battery that says so catches every mutant."""

from __future__ import annotations

import ast
import inspect
import sys
from collections import Counter

import pytest

from fixed.clinic.battery import Health, every_order, examine, expected, judge
from fixed.designs import COPIES, DESIGNS, ONE_SEGMENT, PURE_WRAP, REFERENCE_COUNT, SEGMENT_PER_PICKLE, WARM_SEGMENTS
from fixed.mutants import AS_RELEASED, MUTANTS
from fixed.orders import explore
from fixed.orders.protocols import REUSED
from repro.lab.lifted import run
from repro.lab.releases import FIXED
from tests import machine
from tests.batches import CONTAINED, batch

HOOKED = (PURE_WRAP, SEGMENT_PER_PICKLE, ONE_SEGMENT, REFERENCE_COUNT, WARM_SEGMENTS)  # what plugs in at every release


def name(design) -> str:
    return design.name


@pytest.mark.parametrize("design", DESIGNS, ids=name)
def test_a_design_is_right(design):
    health = examine(design)
    assert health.correct, health
    assert health.leaked["success"] == 0
    assert health.mutates == (design is SEGMENT_PER_PICKLE)
    assert health.shares == (design is REFERENCE_COUNT)


@pytest.mark.parametrize("release", [FIXED, CONTAINED])
@pytest.mark.parametrize("design", HOOKED, ids=name)
def test_a_design_is_right_on_fixed_releases_too(design, release):
    health = examine(design, release)
    assert health.correct, health
    assert not health.mutates


@pytest.mark.parametrize("release", ["0.5.10", "0.5.11", "0.5.12"])
def test_the_linked_design_is_right_on_other_affected_releases(release):
    assert examine(ONE_SEGMENT, release).correct


@pytest.mark.parametrize("mutant", [AS_RELEASED, *MUTANTS], ids=name)
def test_the_battery_catches_a_mutant(mutant):
    health = examine(mutant)
    assert health.crashed == "FileNotFoundError"
    assert not health.correct


def test_the_battery_catches_what_does_not_crash():
    """Wrong bytes, a wrong order of answers, names that stay: these do not crash, but they are wrong."""
    result = run(batch(2, items=2), n=3, fix=ONE_SEGMENT)
    assert result.verdict.answers == expected(result)
    result.verdict.answers.reverse()
    result.sends[0].intact = False
    health = Health(leaked=Counter())
    judge(health, result)
    assert not health.correct
    assert len(health.wrong) == 2


def test_every_order_is_a_judge_of_its_own():
    """All runs of the design are right, but one order in millions is wrong. So the design is not right."""
    assert examine(ONE_SEGMENT).orders == "right"
    health = Health(explored=explore(REUSED))
    assert health.orders == "a consumer reads other pixels"
    assert not health.correct
    leaves = every_order(COPIES)
    assert leaves.verdict == "names are left after: failed send"
    assert Health(explored=leaves).correct
    assert every_order(WARM_SEGMENTS).right


def test_upstreams_fix_leaks_where_the_linked_one_does_not():
    theirs, ours = examine(COPIES).leaked, examine(ONE_SEGMENT).leaked
    assert theirs["failed send"] > 0
    assert set(ours.values()) == {0}
    assert examine(REFERENCE_COUNT).leaked["client gone"] > 0


def test_a_design_can_be_carried_into_a_server():
    """The hotfix takes the modules as they are: they import nothing of this kit, and torch only when it is needed."""
    for design in DESIGNS:
        for node in ast.walk(ast.parse(inspect.getsource(design.modules[0]))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert all(each.partition(".")[0] in {*sys.stdlib_module_names, "torch"} for each in names), names
    assert machine.command("-c", "import fixed.designs, sys; assert 'torch' not in sys.modules").returncode == 0


def test_no_design_touches_the_scheduler():
    assert not any(design.of_the_scheduler for design in DESIGNS)
