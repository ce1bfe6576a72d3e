"""One segment, many names: the form of the names, and who may remove the names of a process that was killed."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from multiprocessing import resource_tracker

import pytest

from fixed.designs import ONE_SEGMENT, one_segment_many_names, shm_names
from repro.lab.releases import NEWEST
from repro.lab.upstream import source
from tests import machine
from tests.kill_windows import LINKS

CONSUMED = """
from fixed.designs import shm_names
segment = shm_names.created(shm_names.new_name(), 4096)
segment.unlink()
names = [segment.name]
shm_names.remove(names)
print(names)
"""
LAB = ["--n", "2", "--fix", ONE_SEGMENT.name, "--json"]
SWEEP = "srt/utils/stale_shm_cleanup.py"  # sglang's own, from 0.5.14 on


def test_names_cannot_be_guessed_or_met_by_chance():
    made = {shm_names.new_name() for _ in range(1000)}
    assert len(made) == 1000
    assert {shm_names.NAME.fullmatch(each)["pid"] for each in made} == {str(os.getpid())}


def test_the_tracker_forgets_the_names_that_it_was_told(monkeypatch):
    """Each under the very name, and with a slash in front, as Python's own are."""
    told = []
    for what in ("register", "unregister"):
        real = getattr(resource_tracker, what)
        watched = lambda name, kind, what=what, real=real: told.append((what, name, kind)) or real(name, kind)  # noqa: E731
        monkeypatch.setattr(resource_tracker, what, watched)
    first = shm_names.new_name()
    segment = shm_names.created(first, 8)
    other = shm_names.linked_to(first)
    segment.close()
    with pytest.raises(FileNotFoundError):
        shm_names.linked_to("no_such_name_of_ours")
    never = told[-1][1]
    shm_names.remove([first, other])
    assert {kind for *_, kind in told} == {"shared_memory"}
    for name in (f"/{first}", f"/{other}", never):
        assert name.startswith("/sgl_shm_mm_")
        assert [what for what, each, _ in told if each == name][-1] == "unregister"


def test_who_does_not_say_how_many_samples_gets_one():
    assert one_segment_many_names.handle_batch_request(lambda *_: "as released", None, object()) == "as released"


@pytest.mark.network
def test_sglangs_own_sweep_can_tell_whose_a_name_is():
    path = source.read(NEWEST, SWEEP).path
    spec = importlib.util.spec_from_file_location("stale_shm_cleanup", path)
    sweep = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sweep)
    assert sweep._creator_pid(shm_names.new_name()) == os.getpid()
    assert not shm_names.NAME.fullmatch(sweep.make_shm_name("mm"))  # and ours leaves sglang's own alone


def test_nothing_is_left_wherever_the_tokenizer_is_killed():
    """The tokenizer alone is killed by SIGKILL, after each call that makes, removes, registers or unregisters a
    name."""
    told = json.loads(machine.command("-m", "tests.kill_windows").stdout)
    calls = [call for call, _ in told["killed"]]
    assert calls[:3] == ["register", "shm_open", "register"]
    assert calls[3:] == ["register", "link"] * LINKS + ["unlink", "unregister"] * (1 + LINKS)
    assert {left for _, left in told["killed"]} == {0}, told["killed"]
    assert told["at_last"] == ""  # the tracker complains of a name that it does not know


def test_a_name_that_a_consumer_has_unlinked_is_passed_over():
    """The consumer has told the tracker already. The tracker would complain about a second message."""
    told = machine.command("-c", CONSUMED)
    assert (told.returncode, told.stdout, told.stderr) == (0, "[]\n", "")


@pytest.fixture
def dead():
    """The number of a process that is gone."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


@pytest.fixture
def named():
    """Makes a name in /dev/shm, which is there no more when the test is over."""
    made = []

    def make(name: str) -> str:
        (machine.SHM / name).touch()
        made.append(name)
        return name

    yield make
    for name in made:
        (machine.SHM / name).unlink(missing_ok=True)


def test_names_of_dead_processes_are_swept_and_no_others(dead, named):
    mine = shm_names.new_name()
    random = mine.rpartition("_")[2]
    swept = [named(f"sgl_shm_mm_{dead}_{random}"), named(f"sgl_shm_mm_{dead}_{random[:8]}{'0' * 24}")]
    kept = [
        named(mine),
        named(f"sgl_shm_mm_1_{random}"),  # another user's, perhaps: alive
        named(f"sgl_shm_mm_{dead}_deadbeef"),  # sglang's own
        named(f"sgl_shm_mm_{dead}_{'f' * 8}{random[8:]}"),  # of another pid namespace
        named(f"sgl_shm_mm_0_{random}"),  # no process
        named(f"sgl_shm_mm_{dead}_{random}0"),
        named(f"psm_{random}"),
    ]
    before = machine.names()
    assert set(shm_names.sweep_the_dead()) == set(swept)
    assert before - machine.names() == set(swept)
    assert set(kept) <= machine.names()


def test_a_process_that_may_not_be_asked_is_alive(dead, named, monkeypatch):
    def kill(pid, sign):
        raise PermissionError

    named(f"sgl_shm_mm_{dead}_{shm_names.new_name().rpartition('_')[2]}")
    monkeypatch.setattr(os, "kill", kill)
    assert shm_names.sweep_the_dead() == []


def test_a_process_in_another_pid_namespace_is_not_taken_for_dead():
    """Such a process may be a server in another container with the same /dev/shm."""
    there = "from fixed.designs import shm_names; print(shm_names.new_name())"
    apart = subprocess.run(
        ["unshare", "--pid", "--fork", "--map-root-user", sys.executable, "-c", there],
        cwd=machine.ROOT,
        capture_output=True,
        encoding="utf-8",
    )
    if apart.returncode:
        pytest.skip("nobody may have a pid namespace here")
    theirs = shm_names.NAME.fullmatch(apart.stdout.strip())
    assert theirs["namespace"] != shm_names.NAME.fullmatch(shm_names.new_name())["namespace"]


def test_a_segment_that_may_not_be_so_large_is_no_traceback_of_the_tracker():
    """With `ulimit -f`, the name is made, but the segment cannot get its size. Features are sent inline, without a
    complaint."""
    limit = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000));"
    lab = f"import fixed.lab; from repro.lab import __main__ as lab; sys.exit(lab.main({LAB}, fixes=fixed.lab.FIXES))"
    run = machine.command("-c", limit + lab)
    assert "Traceback" not in run.stderr, run.stderr
    told = json.loads(run.stdout)
    assert (told["outcome"], len(told["answers"]), told["faults"]) == ("survived", 2, [])
    assert {send["inline"] > 100_000 for send in told["sends"]} == {True}
