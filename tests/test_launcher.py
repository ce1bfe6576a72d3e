"""Whatever the child does, the launcher comes back with a verdict and leaves nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from argparse import Namespace
from multiprocessing import shared_memory
from pathlib import Path

import pytest

from repro.lab.engine import launcher, sgl_kernel_standin
from repro.lab.evidence.verdict import TOO_LONG
from repro.lab.refused import Refused
from tests import machine, scenes


@pytest.fixture(autouse=True)
def temporary_folder(short_path, monkeypatch):
    """The run's own temporary folder; empty again when the run is over."""
    monkeypatch.setattr(tempfile, "tempdir", str(short_path))
    yield short_path
    assert os.listdir(short_path) == []
    assert machine.processes_of(short_path) == []


def test_another_death_is_reported_as_another_death():
    verdict = launcher.run(scenes.another_death, Namespace(n=2))
    assert (verdict.outcome, verdict.error, verdict.errno) == ("crashed", "FileNotFoundError", 2)
    assert verdict.where.endswith(" another_death")
    assert not verdict.is_the_crash()


def test_the_right_place_with_a_name_that_never_existed_is_another_death():
    verdict = launcher.run(scenes.in_setstate, Namespace(n=2))
    assert verdict.error == "FileNotFoundError"
    assert verdict.where.endswith(" __setstate__")
    assert verdict.life_of_segment() == ["open failed"]
    assert not verdict.is_the_crash()


@pytest.mark.parametrize("name", ["SIGKILL", "SIGBUS", "SIGSEGV", "SIGTERM"])
def test_a_death_without_a_word_names_the_signal(name):
    verdict = launcher.run(scenes.killed, Namespace(n=2, signal=name))
    assert verdict.outcome == "crashed"
    assert verdict.error == f"tokenizer killed by {name}"
    assert not verdict.is_the_crash()


def test_a_scheduler_that_ends_before_anybody_looks_is_told_too():
    verdict = launcher.run(scenes.gone_at_once, Namespace(n=1))
    assert verdict.died == ["tokenizer exited with 0", "scheduler gone with it"]


def test_a_fork_that_still_has_the_schedulers_title_is_no_second_scheduler():
    verdict = launcher.run(scenes.forks, Namespace(n=1))
    assert verdict.died == ["tokenizer exited with 0", "scheduler gone with it"]


def test_hung():
    verdict = launcher.run(scenes.hanging, Namespace(n=2), limits={"boot": 30, "generate": 0.5})
    assert (verdict.outcome, verdict.error) == ("hung", TOO_LONG)
    assert verdict.seconds.generate >= 0.5


def test_the_boot_has_a_limit_of_its_own():
    assert launcher.run(scenes.hanging, Namespace(n=2), limits={"boot": 0.01, "generate": 30}).outcome == "hung"


def test_litter_is_reported_and_swept_and_foreign_names_stay():
    foreign = shared_memory.SharedMemory(create=True, size=8)
    try:
        verdict = launcher.run(scenes.littering, Namespace(n=2, then="die"))
        assert foreign.name in machine.names()
    finally:
        foreign.close()
        foreign.unlink()
    assert "plain-file-of-shm-kit" in verdict.leftovers.segments
    # the dying child's resource tracker may have been faster than the sweep with either name
    assert all(name.startswith(("psm_", "sem.mp-", "plain-")) for name in verdict.leftovers.segments)
    assert any("sleep(600)" in process for process in verdict.leftovers.processes)
    assert verdict.leftovers.remaining == []


def test_a_warden_that_is_killed_leaves_nothing():
    """Its child has left files by then, and has a child in a session of its own that no other process would end."""

    def kill_the_warden(phase: str) -> None:
        (warden,) = machine.children_running("repro.lab.engine.warden")
        machine.wait_for(lambda: len(warden.children(recursive=True)) > 1, 10, "the grandchild")
        time.sleep(1.5)  # the warden looks every half second during the boot
        warden.kill()

    with pytest.raises(Refused, match="the warden of this run ended without a report"):
        launcher.run(scenes.littering, Namespace(n=2, then="hang"), on_phase=kill_the_warden)


def test_a_warden_that_cannot_start_leaves_nothing(monkeypatch):
    monkeypatch.setattr(launcher.sys, "executable", "/bin/false")
    with pytest.raises(Refused, match="the warden of this run ended without a report"):
        launcher.run(scenes.killed, Namespace(n=2, signal="SIGKILL"))


def test_the_standin_for_sgl_kernel_raises_and_names_the_kernel():
    verdict = launcher.run(scenes.kernel, Namespace(n=2))
    assert verdict.error == "RuntimeError"
    assert "sgl_kernel.kvcacheio.transfer_kv_all_layer was called" in verdict.message


OPERATORS = """
from repro.lab.engine import sgl_kernel_standin
assert sgl_kernel_standin.install_if_missing()
import torch
ours, others = torch.ops.sgl_kernel, torch.ops.others
print(hasattr(ours, "some_cpu"), hasattr(ours, "some"), hasattr(others, "some_cpu"))
ours.some_cpu()
"""


@pytest.mark.parametrize(("switch", "there"), [("1", "True False False"), ("", "False False False")])
def test_the_standin_has_operators_where_a_run_wants_them(switch, there):
    run = machine.command("-c", OPERATORS, **{sgl_kernel_standin.OPERATORS: switch})
    assert run.stdout.strip() == there
    assert ("torch.ops.sgl_kernel.some_cpu was called, but" in run.stderr) == bool(switch)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_script_that_is_stopped_leaves_nothing(temporary_folder, how):
    code = (
        "from argparse import Namespace; from repro.lab.engine import launcher; from tests import scenes; "
        "launcher.run(scenes.littering, Namespace(n=2, then='hang'))"
    )
    script = machine.start(code, temporary_folder, stderr=subprocess.DEVNULL)
    machine.wait_for(lambda: phase_begun(temporary_folder, "generate"), 30, "the child's littering")
    script.send_signal(how)
    script.wait(20)
    machine.wait_for(lambda: not machine.processes_of(temporary_folder), 10, "the run's processes to end")


def phase_begun(folder: Path, phase: str) -> bool:
    """Whether the run with its temporary files in `folder` has come to `phase`."""
    return any(
        f'"phase": "{phase}"' in events.read_text(encoding="utf-8") for events in folder.glob("shm-kit-*/events.jsonl")
    )


def test_many_runs_leave_no_file_descriptor():
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        launcher.run(scenes.killed, Namespace(n=2, signal="SIGKILL"))
    assert len(os.listdir("/proc/self/fd")) == before


def test_phases_are_told_as_they_begin():
    told = []
    launcher.run(scenes.hanging, Namespace(n=2), limits={"boot": 30, "generate": 0.1}, on_phase=told.append)
    assert told == ["generate"]
