"""A script is stopped while its engine boots, or while its engine works. Nothing of the run is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from multiprocessing import shared_memory

import psutil
import pytest

from tests import machine


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize(("phase", "script"), [("boot", "repro/crash.py"), ("generate", "fixed/crash.py")])
def test_stopped(how, phase, script, short_path, host):
    foreign = shared_memory.SharedMemory(create=True, size=8)
    try:
        run = subprocess.Popen(
            [sys.executable, script, "--n", "64"],
            cwd=machine.ROOT,
            **machine.on_host(host, short_path),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        machine.wait_for(lambda: has_begun(short_path, phase), 300, f"the phase {phase}")
        run.send_signal(how)
        out, err = run.communicate(timeout=60)
        machine.wait_for(lambda: not psutil.Process(host.process.pid).children(), 20, "the run's processes to end")
        assert os.listdir(short_path) == []
        assert foreign.name in machine.names()
    finally:
        foreign.close()
        foreign.unlink()
    assert out == ""
    if how == signal.SIGINT:
        assert run.returncode == 130
        assert err.strip().splitlines()[1:] == ["", "interrupted: everything that was started is gone"]
    # that /dev/shm is as before is seen by the fixture that every test has


def has_begun(folder, phase: str) -> bool:
    """Whether the run is in `phase`: in the middle of a boot, or with a segment to leave behind."""
    events = "".join(file.read_text(encoding="utf-8") for file in folder.glob("shm-kit-*/events.jsonl"))
    return f'"phase": "{phase}"' in events and (phase == "boot" or '"what": "create"' in events)
