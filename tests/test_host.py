"""One import, many engines: each scene runs as if it were the first, and the host survives all of them."""

from __future__ import annotations

import os
import signal
import subprocess
from argparse import Namespace

import psutil
import pytest

from repro.lab import engine
from repro.lab.engine import deferred, launcher
from repro.lab.engine.host import Host
from repro.lab.refused import Refused
from tests import driver, machine, scenes

pytestmark = pytest.mark.engine
ENVIRONMENT = engine.environment("tiny", engine.CPU)


def told(host, scene=scenes.what_it_finds, environment=ENVIRONMENT, **arguments):
    return launcher.run(scene, Namespace(n=None, **arguments), environment=environment, on=host)


def test_each_scene_finds_itself_the_first(host):
    """A scene changes a module, the environment and its working directory. The next scene sees none of it."""
    first, second = told(host).answers, told(host).answers
    assert first["folder"] != second["folder"]
    for found in (first, second):
        assert found["imported"] is True
        assert found["marked"] is found["variable"] is None
        assert found["directory"] == str(machine.ROOT)


def test_a_scene_has_a_session_of_its_own_under_a_warden_of_its_own(host):
    found = told(host).answers
    assert found["session"] == found["pid"]
    assert found["parent"] != host.process.pid
    assert found["grandparent"] == host.process.pid


def test_a_scene_has_the_environment_that_it_was_given(host):
    assert told(host, environment={**ENVIRONMENT, "KIT_TEST": "given"}).answers["variable"] == "given"


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGTERM"])
def test_the_host_survives_what_ends_a_scene(host, name):
    verdict = told(host, scenes.killed, signal=name)
    assert verdict.error == f"tokenizer killed by {name}"
    assert told(host).outcome == "survived"


def test_a_scene_with_litter_is_swept_and_the_host_lives_on(host):
    verdict = told(host, scenes.littering, then="die")
    assert "plain-file-of-shm-kit" in verdict.leftovers.segments
    assert verdict.leftovers.remaining == []
    below = psutil.Process(host.process.pid).children
    machine.wait_for(lambda: not below(), 20, "the warden to end")  # which tells its verdict just before


def test_a_scene_that_would_import_something_else_gets_a_python_of_its_own(host):
    spawning = engine.environment("tiny", engine.CPU, spawn=True)
    assert told(host, environment=spawning).answers["imported"] is False
    other = {**ENVIRONMENT, "TRANSFORMERS_VERBOSITY": "debug"}
    assert told(host, environment=other).answers["imported"] is False


def test_nothing_is_loaded_that_was_put_off(host):
    """Else the boot would have become slower, and nobody would know why."""
    assert told(host, scenes.loaded_after_an_answer).answers == dict.fromkeys(deferred.UNUSED, False)


def test_a_host_ends_with_the_process_that_has_started_it(tmp_path):
    code = (
        "import time; from repro.lab import engine; from repro.lab.engine.host import Host\n"
        "host = Host(engine.environment('tiny', engine.CPU)); print(host.process.pid, flush=True); time.sleep(600)"
    )
    starter = machine.start(code, tmp_path, stdout=subprocess.PIPE, encoding="utf-8")
    host = psutil.Process(int(starter.stdout.readline()))
    starter.send_signal(signal.SIGKILL)
    starter.communicate()
    machine.wait_for(lambda: not host.is_running() or host.status() == psutil.STATUS_ZOMBIE, 60, "the host to end")
    machine.wait_for(lambda: not os.listdir(tmp_path), 10, "its folder to go")


def test_a_host_that_cannot_import_says_why(tmp_path):
    (tmp_path / "sglang.py").write_text("raise ImportError('half a sglang')", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path))
        with Host(ENVIRONMENT) as broken, pytest.raises(Refused, match="half a sglang"):
            told(broken)


def test_a_host_that_does_not_listen_is_killed(monkeypatch):
    monkeypatch.setattr("repro.lab.engine.host.PATIENCE", 0.2)
    stopped = Host(ENVIRONMENT)
    stopped.process.send_signal(signal.SIGSTOP)
    process = psutil.Process(stopped.process.pid)
    machine.wait_for(lambda: process.status() == psutil.STATUS_STOPPED, 5, "the host to stop")
    stopped.close()
    assert stopped.process.returncode == -signal.SIGKILL
    assert not stopped.folder.exists()


def test_scripts_that_fail_end_the_list():
    run = machine.command("-m", "repro.lab.engine.host", "repro/crash.py --n 0", "fixed/crash.py")
    assert run.returncode == 2
    assert "fixed/crash.py" not in run.stdout


@pytest.mark.fail_to_pass
def test_the_demo_keeps_its_promises_on_a_machine_with_a_driver(tmp_path):
    """Most people who run sglang have a GPU machine, and `make demo` installs the CPU's environment there."""
    gpu = driver.fake(tmp_path)
    run = machine.command("-m", "repro.lab.engine.host", "repro/crash.py", "fixed/crash.py", **gpu)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count(", cpu, model tiny, processes by fork\n") == 2
    assert run.stdout.count(" as promised\n") == 2
    assert "a GPU answers, but this environment has no sgl_kernel" in run.stderr
