"""Bad input: one line on stderr with the value and the way out, exit status 2, and nothing left."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from PIL import Image

from tests import machine

SCRIPTS = ["repro/crash.py", "fixed/crash.py", "repro/server.py", "fixed/server.py"]


def refused(run: subprocess.CompletedProcess, *expected: str) -> None:
    """Assert that the run was refused in one line that has every expected part."""
    assert run.returncode == 2, run.stdout + run.stderr
    assert run.stdout == ""
    assert len(run.stderr.splitlines()) == 1, run.stderr
    for word in expected:
        assert word in run.stderr


@pytest.fixture
def folder(tmp_path):
    """The run's temporary folder, empty again afterwards."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    yield temporary
    assert os.listdir(temporary) == []


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--n", "0"], ["--n", "'0'", "give a whole number of 1 or more"]),
        (["--n", "-1"], ["--n", "'-1'", "give a whole number of 1 or more"]),
        (["--n", "x"], ["--n", "'x'", "give a whole number of 1 or more"]),
        (["--n", "1001"], ["--n 1001", "give 1000 or fewer"]),
        (["--n"], ["--n"]),
        (["--colour", "red"], ["--colour red", "--help"]),
        (["--device", "tpu"], ["--device", "'tpu'", "cuda"]),
        (["--device", "cuda"], ["no GPU", "--device cpu"]),
        (["--image", "missing.png"], ["missing.png", "no image"]),
        (["--image", "README.md"], ["README.md", "as an image"]),
        (["--image", "tests"], ["tests", "as an image"]),
        (["--model", "./missing"], ["./missing", "tiny"]),
        (["--model", "tests"], ["config.json", "tests"]),
        (["--model", "some-org/no-network"], ["some-org/no-network", "hub", "--model tiny"]),
        (["--log", "missing/sglang.log"], ["sglang.log", "--log"]),
    ],
)
def test_refused(script, words, expected, folder):
    refused(machine.command(script, *words, folder=folder), *expected)


@pytest.mark.parametrize(
    ("script", "words", "expected"),
    [
        ("repro/server.py", ["--n", "1"], ["--n 1", "give 2 or more"]),
        ("repro/server.py", ["--with", "detach"], ["--with", "--help"]),
        ("repro/server.py", ["--clients", "0"], ["--clients", "'0'", "give a whole number of 1 or more"]),
        ("fixed/server.py", ["--clients", "65"], ["--clients 65", "give 64 or fewer"]),
        ("repro/server.py", ["--replicas", "5"], ["--replicas 5", "give 4 or fewer"]),
        ("fixed/server.py", ["--with", "luck"], ["--with", "'luck'", "hotfix"]),
    ],
)
def test_refused_of_a_server(script, words, expected, folder):
    refused(machine.command(script, *words, folder=folder), *expected)


def test_a_loopback_that_is_down(folder):
    for unshare in (["unshare", "-n"], ["unshare", "-U", "-r", "-n"]):
        if subprocess.run([*unshare, "true"], capture_output=True).returncode == 0:
            environment = machine.surroundings(folder)
            command = [*unshare, sys.executable, "repro/server.py"]
            run = subprocess.run(command, cwd=machine.ROOT, env=environment, capture_output=True, encoding="utf-8")
            return refused(run, "127.0.0.1", "ip link set lo up")
    pytest.skip("this machine allows no network namespace of one's own (unshare -n)")


def test_a_truncated_png(folder, tmp_path):
    Image.effect_noise((64, 64), 80).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:2000])
    refused(machine.command("repro/crash.py", "--image", tmp_path / "half.png", folder=folder), "half.png", "truncated")


def test_a_cache_directory_that_cannot_be_written(folder):
    run = machine.command("repro/crash.py", folder=folder, XDG_CACHE_HOME="/proc/nothing")
    refused(run, "/proc/nothing", "XDG_CACHE_HOME")


def test_a_read_only_cache_directory(folder, tmp_path):
    own_mounts = namespace_command(f"mount -t tmpfs -o ro tmpfs {tmp_path}")
    run = subprocess.run(
        [*own_mounts, sys.executable, "repro/crash.py"],
        cwd=machine.ROOT,
        env=machine.surroundings(None, XDG_CACHE_HOME=str(tmp_path)),
        capture_output=True,
        encoding="utf-8",
    )
    refused(run, str(tmp_path), "Read-only file system", "XDG_CACHE_HOME")


def test_a_full_shm(folder):
    full = "mount -t tmpfs -o size=1m tmpfs /dev/shm && head -c 1m /dev/zero > /dev/shm/full"
    run = subprocess.run(
        [*namespace_command(full), sys.executable, "repro/crash.py"],
        cwd=machine.ROOT,
        capture_output=True,
        encoding="utf-8",
    )
    refused(run, "/dev/shm has 0 MiB free", "--shm-size")


def namespace_command(set_up: str) -> list[str]:
    """The beginning of a command that runs in mounts of its own, after `set_up`. Skips where that is not allowed."""
    for unshare in (["unshare", "-m"], ["unshare", "-U", "-r", "-m"]):
        if subprocess.run([*unshare, "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"], capture_output=True).returncode == 0:
            return [*unshare, "sh", "-c", f'{set_up} && exec "$@"', "sh"]
    pytest.skip("this machine allows neither root's nor a user's own mount namespace (unshare -m)")


@pytest.mark.parametrize("script", SCRIPTS)
def test_sglang_missing(script, folder, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    run = machine.command(script, folder=folder, python=str(tmp_path / "bare" / "bin" / "python"))
    refused(run, "has no sglang", "make demo")
