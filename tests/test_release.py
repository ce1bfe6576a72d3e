"""A fixed release in the environment runs and does not crash, and the verdict says what was promised."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from repro.lab import engine
from repro.lab.engine.host import Host
from tests import machine

pytestmark = pytest.mark.network
RELEASE = "0.5.13"


@pytest.fixture(scope="module")
def other_release(tmp_path_factory):
    """A folder with another release of sglang, to be put before the locked one."""
    folder = tmp_path_factory.mktemp("release")
    uv = Path(sys.executable).with_name("uv")
    wanted = [f"sglang=={RELEASE}", "--no-deps", "--quiet", "--target", folder, "--python", sys.executable]
    subprocess.run([uv, "pip", "install", *wanted], check=True)
    return folder


@pytest.fixture(scope="module")
def its_host(other_release):
    """A host that has imported that release."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(other_release))
        patch.syspath_prepend(other_release)
        host = Host(engine.environment("tiny", engine.CPU))
    with host:
        yield host


def test_repro_survives_and_says_so(other_release, its_host):
    run = machine.command("repro/crash.py", on=its_host, PYTHONPATH=str(other_release))
    assert run.returncode == 1, run.stdout + run.stderr
    assert f"sglang {RELEASE}" in run.stdout
    assert "happened   2 answers" in run.stdout
    assert "verdict    survived, NOT as promised" in run.stdout
    assert f"note       the promise was made for 0.5.9 to 0.5.12.post1; this is {RELEASE}" in run.stdout


def test_the_fix_refuses_a_release_that_has_it(other_release):
    run = machine.command("-m", "fixed.detach", "--diff", PYTHONPATH=str(other_release))
    assert run.returncode == 2
    assert "0 expansion points" in run.stderr
    assert str(other_release) in run.stderr


def test_fixed_refuses_too(other_release, its_host, tmp_path):
    run = machine.command(
        "fixed/crash.py", "--device", "cpu", folder=tmp_path, on=its_host, PYTHONPATH=str(other_release)
    )
    assert (run.returncode, run.stdout) == (2, "")
    assert len(run.stderr.splitlines()) == 1
    assert "already fixed" in run.stderr
