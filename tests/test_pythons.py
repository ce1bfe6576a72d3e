"""On each Python that is promised and that this machine has: what runs there without any package."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests import machine
from tests.pythons import PROMISED, python_of

COMPILE = "import sys, pathlib; [compile(pathlib.Path(name).read_bytes(), name, 'exec') for name in sys.argv[1:]]"
COMMANDS = ("-m repro.lab.doctor", "-m fixed.detach", "-m fixed.orders", "repro/crash.py", "fixed/server.py")


def alone(version: str, *words: str) -> subprocess.CompletedProcess:
    """Run that Python in the checkout, without site-packages, without writing byte code."""
    words = (python_of(version), "-S", "-B", *words)
    return subprocess.run(
        words, cwd=machine.ROOT, capture_output=True, encoding="utf-8", timeout=60, stdin=subprocess.DEVNULL
    )


def test_what_is_promised_is_one_thing():
    """README, the package and these tests name the same Pythons."""
    oldest, newest = PROMISED[0], PROMISED[-1]
    assert f"Python {oldest} to {newest}" in (machine.ROOT / "README.md").read_text(encoding="utf-8")
    required = f'requires-python = ">={oldest},<3.{int(newest.partition(".")[2]) + 1}"'
    assert required in (machine.ROOT / "pyproject.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize("version", PROMISED)
def test_every_file_compiles(version):
    files = [
        str(path)
        for folder in ("repro", "fixed", "scripts", "tests")
        for path in machine.ROOT.glob(f"{folder}/**/*.py")
    ]
    run = alone(version, "-W", "error", "-c", COMPILE, *files)
    assert (run.returncode, run.stderr) == (0, "")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("version", PROMISED)
def test_a_command_says_what_it_can_do(version, command):
    run = alone(version, *command.split(), "--help")
    assert (run.returncode, run.stderr) == (0, "")
    assert re.match("usage: ", run.stdout)


@pytest.mark.parametrize("command", ["repro.lab", "repro.lab.drill", "fixed.lab", "fixed.clinic", "fixed.exercises"])
@pytest.mark.parametrize("version", PROMISED)
def test_a_command_that_needs_packages_says_so_in_one_line(version, command):
    run = alone(version, "-m", command)
    assert (run.returncode, run.stdout) == (2, "")
    assert re.fullmatch(rf"{command}: \S+ has no zmq: run `make demo` once, .*\n", run.stderr)


@pytest.mark.parametrize("version", PROMISED)
def test_an_import_without_packages_says_so_in_its_error(version):
    run = alone(version, "-c", "import repro.lab.lifted")
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1].endswith("use .venv/bin/python")
