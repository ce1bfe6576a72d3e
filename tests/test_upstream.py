"""The regression test that is to be offered upstream: red where the bug is, green where it is not, for the right
reason.

The installed release is imported whole, as upstream's CI would. For the others, the test finds that release's lifted
functions under upstream's names (`tests/lifted_upstream.py`): importing six more releases would take their
dependencies.
"""

from __future__ import annotations

import json
from argparse import Namespace

import pytest

from fixed.mutants import MUTANTS
from repro.lab import engine
from repro.lab.engine import launcher
from repro.lab.releases import AFFECTED
from tests import machine, scenes
from tests.lifted_upstream import CASES

pytestmark = pytest.mark.network
FIXED = ("0.5.13", "0.5.13.post1", "0.5.14", "0.5.15", "0.5.16", "0.5.18", "0.5.20", "0.5.22", "0.5.23")
SHARED = "two sends carry the same name"
LISTS_GO_INLINE = ("0.5.9", "0.5.10", "0.5.10.post1")
LIST = "test_a_list_of_tensors"


@pytest.fixture(scope="module")
def outcomes():
    """What became of every case: release or mutant -> case -> nothing, or why it is red. One process for all."""
    run = machine.command("-m", "tests.lifted_upstream", *AFFECTED, *FIXED)
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout)


@pytest.mark.parametrize("release", AFFECTED)
def test_red_on_an_affected_release(outcomes, release):
    red = set(CASES) - ({LIST} if release in LISTS_GO_INLINE else set())
    assert {case: why for case, why in outcomes[release].items() if why} == dict.fromkeys(red, SHARED)


@pytest.mark.parametrize("release", FIXED)
def test_green_on_a_fixed_release(outcomes, release):
    assert outcomes[release] == dict.fromkeys(CASES)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_red_on_a_mutant_of_the_fix(outcomes, mutant):
    assert outcomes[mutant.name]["test_one_image"] == SHARED


@pytest.mark.parametrize("design", ["copies_at_both_points", "deepcopy", "pure_wrap", "one_segment_many_names"])
def test_green_on_a_design(outcomes, design):
    assert outcomes[design] == dict.fromkeys(CASES)


def test_red_with_the_installed_package_and_green_with_the_fix_applied(host, tmp_path):
    """The file itself, on its own, with all of sglang imported."""
    environment, log = engine.environment("tiny", engine.CPU), tmp_path / "log"
    verdict = launcher.run(scenes.upstreams_test, Namespace(n=None), environment=environment, on=host, log=log)
    assert verdict.answers == {"before": [4, 4, 0], "after": [4, 0, 0]}, log.read_text(encoding="utf-8")[-2000:]
    assert log.read_text(encoding="utf-8").count(f" : {SHARED}") == 4


def test_it_stands_alone():
    """It imports nothing of this kit, and runs as a script."""
    text = (machine.ROOT / "tests/upstream/test_parallel_sampling_shm_ownership.py").read_text(encoding="utf-8")
    assert not any(
        f"{verb} {package}" in text for verb in ("from", "import") for package in ("repro", "fixed", "tests")
    )
    assert text.endswith('if __name__ == "__main__":\n    unittest.main()\n')
