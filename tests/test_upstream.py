"""The tests that are to be offered upstream: red where a bug is, green where it is not, for the right reason.

The installed release is imported whole, as upstream's CI would. For the others, the test finds that release's lifted
functions under upstream's names (`tests/lifted_upstream.py`): importing more releases would take their dependencies.

All 25 releases are run. The test of ownership is red on the six affected and green on the thirteen fixed. It does not
apply to the six before 0.5.9: they have no shared memory to own, and no `ShmPointerMMData` to look for. The test of the
bootstrap rooms applies to all 25: it is red on each as released, and green on each with the fix.
"""

from __future__ import annotations

import json
from argparse import Namespace

import pytest

from fixed.later_mutants import LATER_MUTANTS
from fixed.mutants import MUTANTS
from repro.lab import engine, releases
from repro.lab.engine import launcher
from repro.lab.refused import Refused
from repro.lab.releases import AFFECTED, ALL, NEWEST
from repro.lab.upstream.release import Release
from tests import machine, scenes
from tests.lifted_upstream import CASES, FOLDER, OWNERSHIP, ROOM_CASES, ROOMS

FILES = (OWNERSHIP, ROOMS)
pytestmark = pytest.mark.network
FIXED = ALL[ALL.index(releases.FIXED) :]
BEFORE = ALL[: ALL.index(AFFECTED[0])]  # nothing is shared yet
SHARED = "two sends carry the same name"
INLINE = "each tensor is to be sent under one name"
WHOLE = [mutant for mutant in LATER_MUTANTS if mutant.undone in ((), (1, 2))]  # what a hook can put into a package
LISTS_GO_INLINE = ("0.5.9", "0.5.10", "0.5.10.post1")
LIST = "test_a_list_of_tensors"


@pytest.fixture(scope="module")
def outcomes():
    """The result of every case: release or mutant -> case -> None, or why the case is red. One process runs them
    all."""
    run = machine.command("-m", "tests.lifted_upstream", *ALL)
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout)


@pytest.mark.parametrize("release", AFFECTED)
def test_red_on_an_affected_release(outcomes, release):
    expected = dict.fromkeys(CASES, SHARED) | ({LIST: INLINE} if release in LISTS_GO_INLINE else {})
    assert outcomes[release] == expected


@pytest.mark.parametrize("release", FIXED)
def test_green_on_a_fixed_release(outcomes, release):
    assert outcomes[release] == dict.fromkeys(CASES)


def test_all_releases_are_run_and_the_test_applies_to_those_that_share(outcomes):
    assert len(ALL) == len(BEFORE) + len(AFFECTED) + len(FIXED) == 6 + 6 + 13
    assert [release for release in ALL if release in outcomes] == [*AFFECTED, *FIXED]
    assert [release for release in ALL if Release.of(release).mm_utils is None] == [*BEFORE]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_red_on_a_mutant_of_the_fix(outcomes, mutant):
    assert outcomes[mutant.name]["test_one_image"] == SHARED


@pytest.mark.parametrize("mutant", LATER_MUTANTS, ids=lambda mutant: mutant.name)
def test_red_on_a_mutant_of_the_newest_release(outcomes, mutant):
    """Each mutant has its own reason to be red, and no case raises another error."""
    red = [why for why in outcomes[f"{NEWEST} {mutant.name}"].values() if why]
    assert red
    assert not [why for why in red if "Error" in why]


@pytest.mark.parametrize("release", ALL)
def test_a_room_is_sent_n_plus_1_times_in_every_release_and_once_with_the_fix(outcomes, release):
    own, same = ROOM_CASES
    assert outcomes[f"rooms {release}"] == {own: "two sends have the same room", same: None}
    assert outcomes[f"fixed rooms {release}"] == dict.fromkeys(ROOM_CASES)


@pytest.mark.parametrize("design", ["copies_at_both_points", "deepcopy", "pure_wrap", "one_segment_many_names"])
def test_green_on_a_design(outcomes, design):
    assert outcomes[design] == dict.fromkeys(CASES)


def test_red_with_the_installed_package_and_green_with_the_fix_applied(host, tmp_path):
    """The file itself, on its own, with all of sglang imported."""
    environment, log = engine.environment("tiny", engine.CPU), tmp_path / "log"
    verdict = launcher.run(scenes.upstreams_test, Namespace(n=None), environment=environment, on=host, log=log)
    told = dict(verdict.answers)
    assert (told.pop("before"), told.pop("after")) == ([4, 4, 0], [4, 0, 0]), log.read_text(encoding="utf-8")[-2000:]
    assert log.read_text(encoding="utf-8").count(f" : {SHARED}") == 4
    assert (told.pop("rooms"), told.pop("rooms, fixed")) == ([2, 1, 0], [2, 0, 0])
    assert set(told) == {mutant.name for mutant in WHOLE}
    assert all(failed and not broken for _, failed, broken in told.values()), told


@pytest.mark.parametrize("file", FILES)
def test_it_stands_alone(file):
    """It imports nothing of this kit, and runs as a script."""
    text = (FOLDER / f"{file}.py").read_text(encoding="utf-8")
    assert not any(
        f"{verb} {package}" in text for verb in ("from", "import") for package in ("repro", "fixed", "tests")
    )
    assert text.endswith('if __name__ == "__main__":\n    unittest.main()\n')


def test_the_bug_can_be_put_back_only_where_the_fix_is():
    with pytest.raises(Refused, match=r"has the fix at 0 expansion points, not at 2"):
        Release.of(AFFECTED[-1]).with_the_bug_again()
