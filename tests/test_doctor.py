"""The doctor goes red when a thing is broken, names the exact remedy, and removes nothing."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections import namedtuple
from functools import partial
from importlib.metadata import PackageNotFoundError
from multiprocessing import get_context
from pathlib import Path

import pytest

from repro.lab import doctor, folders, pictures
from repro.lab.doctor import Check
from repro.lab.engine import tiny_vlm
from repro.lab.machine import preflight, surroundings
from repro.lab.releases import NEWEST
from tests import machine

CREATOR = """
import time
from multiprocessing.shared_memory import SharedMemory
segment = SharedMemory(create=True, size=4096)
print(segment.name, flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def one_short_look(monkeypatch):
    monkeypatch.setattr(doctor, "BETWEEN_LOOKS", 0.01)


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder that temporary folders are looked for in."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def lock(tmp_path, monkeypatch):
    """Writes a lock; returns the check of it."""
    monkeypatch.setattr(doctor, "LOCKS", tmp_path)

    def check(*lines: str) -> Check:
        (tmp_path / "cpu.lock").write_text("\n".join(lines), encoding="utf-8")
        return doctor.lock("cpu.lock")

    return check


def without(monkeypatch, package: str) -> None:
    """`package` has no metadata and no module."""
    find, version = doctor.importlib.util.find_spec, doctor.version

    def gone(name: str) -> str:
        if name == package:
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None if name == package else find(name))
    monkeypatch.setattr(doctor, "version", gone)
    monkeypatch.setattr(tiny_vlm, "version", gone)


def fails(check: Check, *expected: str) -> None:
    assert check.state == "FAIL"
    assert check.remedy
    for word in expected:
        assert word in str(check)


def test_how_a_check_is_printed():
    assert str(Check("OK", "python 3.11.7")) == "OK   python 3.11.7"
    assert str(Check("FAIL", "torch is missing", "make setup")) == "FAIL torch is missing: make setup"
    assert str(Check("note", "no GPU", "the CPU is used")) == "note no GPU: the CPU is used"


@pytest.mark.parametrize(("number", "state"), [((3, 9), "FAIL"), ((3, 10), "OK"), ((3, 13), "OK"), ((3, 14), "FAIL")])
def test_python(number, state, monkeypatch):
    monkeypatch.setattr(sys, "version_info", (*number, 0))
    assert doctor.python().state == state


def test_another_system(monkeypatch):
    assert doctor.linux().state == "OK"
    monkeypatch.setattr(sys, "platform", "darwin")
    fails(doctor.linux(), "darwin", "WSL 2")


@pytest.mark.parametrize("name", ["cpu.lock", "tools.lock"])
def test_this_environment_is_as_locked(name):
    assert doctor.lock(name).state == "OK", doctor.lock(name)


@pytest.mark.parametrize(
    ("mark", "expected"),
    [("conda-meta", surroundings.CONDA), ("lib", surroundings.CPU)],
)
def test_which_environment_this_is(mark, expected, tmp_path):
    (tmp_path / mark).mkdir()
    assert surroundings.here(str(tmp_path)) == expected
    assert surroundings.here(str(machine.ROOT / ".venv-gpu")) == surroundings.GPU
    assert surroundings.here(str(machine.ROOT / ".venv-latest")) == surroundings.LATEST
    assert doctor.environment().state == "OK"


def test_every_environment_has_its_locks():
    for kind in (surroundings.CPU, surroundings.GPU, surroundings.LATEST, surroundings.CONDA):
        assert kind.locks
        assert all((machine.ROOT / "requirements" / name).is_file() for name in kind.locks)


def test_the_kit_is_installed_from_this_checkout(monkeypatch):
    assert doctor.kit().state == "OK", doctor.kit()
    monkeypatch.setattr(doctor, "ROOT", Path("/another/checkout"))
    fails(doctor.kit(), "another checkout")
    monkeypatch.setattr(doctor, "distributions", lambda name: [])
    fails(doctor.kit(), "not installed here", doctor.HERE.bring_kit)


def test_another_version_and_a_missing_package(lock):
    fails(lock("pillow==0.1 \\", "    --hash=sha256:00", "no-such-package==1"), "2 of 2", "pillow", "not ==0.1")
    fails(lock("no-such-package==1"), "no-such-package missing", doctor.SET_UP)


def test_at_most_five_are_named(lock):
    check = lock(*[f"no-such-package-{number}==1" for number in range(9)])
    fails(check, "9 of 9", "4 more")
    assert check.what.count("no-such-package") == 5


def test_pins_for_other_platforms_do_not_count(lock):
    assert lock("no-such-package==1 ; sys_platform == 'win32' \\").what.endswith("0 packages as pinned")


def test_no_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "LOCKS", tmp_path)
    fails(doctor.lock("cpu.lock"), "cannot read requirements/cpu.lock", "git checkout -- requirements/cpu.lock")


def test_without_packaging(monkeypatch):
    without(monkeypatch, "packaging")
    fails(doctor.lock("cpu.lock"), "packaging is missing", doctor.SET_UP)


@pytest.mark.parametrize("package", ["torch", "sglang"])
def test_a_missing_part(package, monkeypatch):
    assert getattr(doctor, package)().state == "OK"
    without(monkeypatch, package)
    fails(getattr(doctor, package)(), f"{package} is missing", doctor.SET_UP)


@pytest.mark.parametrize(("release", "state"), [("0.5.9", "OK"), ("0.5.12.post1", "OK"), ("0.5.13", "note")])
def test_the_affected_releases(release, state, monkeypatch):
    monkeypatch.setattr(doctor, "version", lambda name: release)
    check = doctor.sglang()
    assert (check.state, release in check.what) == (state, True)


def test_the_newest_release_is_right_in_its_own_environment(monkeypatch):
    monkeypatch.setattr(doctor, "version", lambda name: NEWEST)
    assert doctor.sglang().state == "note"
    monkeypatch.setattr(doctor, "HERE", surroundings.LATEST)
    assert doctor.sglang().state == "OK"


def test_without_dot(monkeypatch):
    assert doctor.dot().state == "OK"
    monkeypatch.setattr(pictures, "dot_path", lambda: None)
    assert doctor.dot().state == "note"


def test_shm_that_cannot_be_written(monkeypatch):
    assert doctor.shared_memory().state == "OK"
    monkeypatch.setattr(preflight, "SHM", Path("/proc/nothing"))
    fails(doctor.shared_memory(), "cannot write to /proc/nothing", "mount a tmpfs")


def test_a_full_shm(monkeypatch):
    room = namedtuple("room", "f_frsize f_blocks f_bavail f_bfree")(4096, 4096, 1, 1)
    monkeypatch.setattr(os, "statvfs", lambda path: room)
    fails(doctor.shared_memory(), "0 MiB free", "--shm-size=1g")


@pytest.mark.parametrize(("found", "state"), [("/usr/bin/google-chrome", "OK"), (None, "note")])
def test_browser(found, state, monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: found if name == "google-chrome" else None)
    check = doctor.browser()
    assert check.state == state
    assert found or check.remedy == "apt-get install chromium"


@pytest.mark.parametrize("place", ["/proc/nothing", "/dev/null"])
def test_a_cache_that_cannot_be_written(place, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", place)
    fails(doctor.cache(), place, "set XDG_CACHE_HOME")


def test_looking_at_the_cache_makes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "new"))
    assert doctor.cache().state == "OK"
    assert os.listdir(tmp_path) == []


def test_tiny_model(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert doctor.tiny_model().state == "note"
    tiny_vlm.location().mkdir(parents=True)
    assert doctor.tiny_model().state == "OK"
    without(monkeypatch, "torch")
    fails(doctor.tiny_model(), "torch is missing", doctor.SET_UP)


@pytest.mark.parametrize(
    ("stem", "state"),
    [
        *(("psm_deadbeef", "note"), ("sem.mp-deadbeef", "note")),  # segments of any program have such names
        *(("sgl_shm_mm_1_deadbeef", "FAIL"), ("sglang_deadbeef", "FAIL")),
    ],
)
def test_a_leftover_is_told_and_not_removed(stem, state):
    path = machine.SHM / f"{stem}{os.getpid()}"
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR))
    try:
        check = doctor.segments()
        assert check.state == state
        assert path.name in check.what
        assert path.exists()
        told, _, remedy = check.remedy.partition(": ")
        assert told == "if no other program needs them"
        assert str(path) in shlex.split(remedy)
    finally:
        path.unlink()


def test_names_of_others_are_left_alone(monkeypatch):
    path = machine.SHM / f"foreign_deadbeef{os.getpid()}"
    path.touch()
    try:
        assert path.name not in str(doctor.segments())
    finally:
        path.unlink()


def test_another_users_names_are_left_alone(monkeypatch):
    path = machine.SHM / f"psm_deadbeef{os.getpid()}"
    path.touch()
    try:
        monkeypatch.setattr(os, "getuid", lambda: 424242)
        assert path.name not in str(doctor.segments())
    finally:
        path.unlink()


def test_a_living_segment_is_none_until_its_creator_and_tracker_are_killed():
    creator = subprocess.Popen(
        [sys.executable, "-c", CREATOR], stdout=subprocess.PIPE, encoding="utf-8", start_new_session=True
    )
    name = creator.stdout.readline().strip()
    path = machine.SHM / name
    try:
        assert path.exists()
        assert name not in str(doctor.segments())
        os.killpg(creator.pid, signal.SIGKILL)  # the resource tracker is in the same group
        creator.wait()
        assert f"/dev/shm/{name}" in doctor.segments().remedy
        assert path.exists()
    finally:
        creator.kill()
        creator.wait()
        creator.stdout.close()
        path.unlink(missing_ok=True)


def test_a_living_semaphore_is_none():
    lock = get_context("spawn").Lock()
    name = f"sem.{lock._semlock.name.lstrip('/')}"
    assert (machine.SHM / name).exists()
    assert name not in str(doctor.segments())


def test_what_is_open_is_none():
    path = machine.SHM / f"sgl_shm_mm_1_open{os.getpid()}"
    with open(path, "wb"):
        assert path.name not in str(doctor.segments())
    path.unlink()


def test_a_living_hard_link_is_none():
    """The memory is mapped under one name and has a second name. So the second name is in use, too."""
    first, second = (machine.SHM / f"psm_link{os.getpid()}.{number}" for number in (1, 2))
    with open(first, "wb"):
        os.link(first, second)
        first.unlink()
        assert second.name not in str(doctor.segments())
    second.unlink()


def test_what_is_gone_at_the_second_look_is_none(monkeypatch):
    path = machine.SHM / f"psm_onitsway{os.getpid()}"
    path.touch()
    monkeypatch.setattr(doctor.time, "sleep", lambda seconds: path.unlink(missing_ok=True))
    assert path.name not in str(doctor.segments())


ABANDON = """
import os, signal
from repro.lab import folders
print(folders.make("dead"), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_folder_of_a_dead_process_is_told_and_not_removed(temporary):
    (temporary / "another").mkdir()
    (temporary / "shm-kit-without-a-lock").mkdir()
    folder = Path(machine.command("-c", ABANDON, folder=temporary).stdout.strip())
    check = doctor.folders()
    fails(check, folder.name, "the next run removes them")
    assert "without-a-lock" not in str(check)
    assert folder.is_dir()
    subprocess.run(check.remedy.partition("; or ")[2], shell=True, check=True)
    assert doctor.folders().state == "OK"


def test_the_next_folder_takes_that_of_a_dead_process_away(temporary):
    folder = Path(machine.command("-c", ABANDON, folder=temporary).stdout.strip())
    with folders.folder("next") as made:
        assert os.listdir(temporary) == [made.name]
        assert not folder.exists()
        assert folders.abandoned(temporary) == []
    assert os.listdir(temporary) == []


@pytest.mark.parametrize(("states", "status"), [(["OK", "note"], 0), (["OK", "FAIL", "note"], 1), ([], 0)])
def test_exit_status(states, status, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "CHECKS", [partial(Check, state, "what", "remedy") for state in states])
    assert doctor.main([]) == status
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == states
    assert doctor.main(["--json"]) == status
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is (status == 0)
    assert told["checks"] == [{"state": state, "what": "what", "remedy": "remedy"} for state in states]


@pytest.mark.parametrize("words", [["--colour"], ["more"], ["--json=yes"]])
def test_bad_usage(words, capsys):
    assert doctor.main(words) == 2
    told = capsys.readouterr()
    assert (told.out, len(told.err.splitlines())) == ("", 1)


def test_a_check_that_breaks_down_is_red_and_the_others_still_tell(monkeypatch):
    def broken() -> Check:
        raise RuntimeError("no driver")

    monkeypatch.setattr(doctor, "CHECKS", [broken, doctor.gpu])
    first, second = doctor.examine()
    fails(first, "broken", "no driver")
    assert second.state in ("OK", "note")


def test_from_a_shell(tmp_path):
    run = machine.command("-m", "repro.lab.doctor", "--json", folder=tmp_path)
    told = json.loads(run.stdout)
    assert len(told["checks"]) == len(doctor.CHECKS)
    red = [check for check in told["checks"] if check["state"] == "FAIL"]
    assert all(check["remedy"] for check in red)
    assert run.returncode == int(bool(red)) == int(not told["ok"])
    assert run.stderr == ""


def test_neither_sglang_nor_torch_is_imported():
    looked = (
        "from repro.lab import doctor; list(doctor.examine()); import sys; print({'sglang', 'torch'} & {*sys.modules})"
    )
    run = machine.command("-c", looked)
    assert (run.returncode, run.stdout, run.stderr) == (0, "set()\n", "")


def test_it_runs_on_a_bare_python(tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    run = machine.command("-m", "repro.lab.doctor", folder=tmp_path, python=str(tmp_path / "bare" / "bin" / "python"))
    assert (run.returncode, run.stderr) == (1, "")
    assert "FAIL sglang is missing: make -B setup" in run.stdout.splitlines()
