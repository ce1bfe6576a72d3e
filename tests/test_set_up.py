"""The set-up says at once what cannot work. It takes only the way to a registry from the user's configuration. It
continues after an interruption."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from repro.lab import configured, registry
from repro.lab.machine import preflight
from scripts import set_up
from tests import machine

PROGRAM = machine.ROOT / "scripts" / "set_up.py"
OLD = "import runpy, sys; sys.version_info = (3, {minor}, 0); runpy.run_path({program!r}, run_name='__main__')"
WANTED = [([], set_up.CPU.gigabytes), (["--gpu"], set_up.GPU.gigabytes), (["--latest"], set_up.LATEST.gigabytes)]
HOSTILE = {
    "PIP_USER": "1",
    "PIP_REQUIRE_HASHES": "1",
    "PIP_TARGET": "/nowhere",
    "PIP_CONSTRAINT": "/nowhere",
    "UV_REQUIRE_HASHES": "1",
    "UV_TARGET": "/nowhere",
    "UV_OFFLINE": "1",
    "PYTHONPATH": "/nowhere",
    "PYTHONOPTIMIZE": "2",
    "PYTHONWARNINGS": "error",
}


@pytest.fixture
def nothing_is_run(monkeypatch):
    """A test that starts a process fails."""

    def started(*words, **_):
        raise AssertionError(words)

    monkeypatch.setattr(subprocess, "run", started)


@pytest.fixture
def nothing_configured(monkeypatch, tmp_path):
    """An environment, and folders for configuration, without any setting of pip and uv."""
    for name in [name for name in os.environ if name.startswith(registry.CLEANED) or name.endswith("_PROXY")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    for name in ("XDG_CONFIG_HOME", "XDG_CONFIG_DIRS"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(configured, "SYSTEM", tmp_path / "etc")


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("minor", [8, 9, 14])
def test_another_python_is_refused_before_anything_else_is_read(minor):
    run = machine.command("-c", OLD.format(minor=minor, program=str(PROGRAM)))
    assert (run.returncode, run.stdout, len(run.stderr.splitlines())) == (2, "", 1)
    assert f"Python 3.{minor}" in run.stderr
    assert "make PYTHON=" in run.stderr


def test_an_old_python_can_read_the_refusal():
    """The file's syntax is that of Python 3.6, and it imports nothing before it checks the version."""
    tree = ast.parse(PROGRAM.read_text(encoding="utf-8"), feature_version=(3, 6))
    _, first, check = tree.body[:3]
    assert [alias.name for alias in first.names] == ["sys"]
    assert isinstance(check, ast.If)
    assert "version_info" in ast.unparse(check.test)


@pytest.mark.parametrize(
    ("place", "name", "value", "words"),
    [
        (sys, "platform", "darwin", ["not on darwin", "WSL 2"]),
        (set_up.platform, "machine", lambda: "riscv64", ["x86_64 and aarch64", "riscv64"]),
        (set_up.platform, "libc_ver", lambda: ("glibc", "2.31"), ["glibc 2.34", "glibc 2.31"]),
        (set_up.platform, "libc_ver", lambda: ("", ""), ["glibc 2.34", "another C library"]),
        (set_up.importlib.util, "find_spec", lambda name: None, ["ensurepip", "python3-venv"]),
        (os, "access", lambda path, mode: False, ["cannot write", "folder of your own"]),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_started(
    place, name, value, words, monkeypatch, capsys, nothing_is_run
):
    monkeypatch.setattr(place, name, value)
    assert set_up.main([]) == 2
    told = capsys.readouterr()
    assert (told.out, len(told.err.splitlines())) == ("", 1)
    for word in words:
        assert word in told.err


def test_the_newest_release_needs_a_newer_python_than_the_rest(monkeypatch, capsys, nothing_is_run):
    monkeypatch.setattr(sys, "version_info", (3, 10, 12))
    set_up.require_python(set_up.CPU)
    assert set_up.main(["--latest"]) == 2
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 1
    assert ".venv-latest needs Python 3.11 to 3.13, and this is Python 3.10: " in told
    assert "make latest PYTHON=" in told


@pytest.mark.parametrize(("options", "gigabytes"), WANTED)
def test_too_little_disk_is_said_before_anything_is_started(options, gigabytes, monkeypatch, capsys, nothing_is_run):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=int(1e9)))
    monkeypatch.setattr(set_up, "size_of", lambda places: int(1e9))
    assert set_up.main(options) == 2
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 1
    assert f"{gigabytes} GB" in told
    assert "1.0 GB are free" in told


def test_what_an_earlier_set_up_has_left_counts_as_room(monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=int(1e9)))
    monkeypatch.setattr(set_up, "size_of", lambda places: int(9e9))
    set_up.require_room(set_up.CPU)


def test_a_file_with_two_names_has_its_size_once(tmp_path):
    write(tmp_path / "one" / "file", "x" * 100_000)
    once = set_up.size_of([tmp_path / "one"])
    assert once >= 100_000
    (tmp_path / "two").mkdir()
    os.link(tmp_path / "one" / "file", tmp_path / "two" / "link")
    assert set_up.size_of([tmp_path / "one", tmp_path / "two"]) == once


def test_this_machine_can_be_set_up():
    preflight.require_linux()
    set_up.require_processor()
    set_up.require_glibc()


def test_an_interrupted_set_up_is_resumed(tmp_path, monkeypatch, capsys):
    """Without the stamp, the environment counts as incomplete, and packages that may be half written are written
    again."""
    called = []

    def call(self, *words):
        called.append([*map(str, words)])
        if "break" in os.environ:
            raise subprocess.CalledProcessError(1, ["/somewhere/uv"])

    monkeypatch.setattr(set_up.SetUp, "call", call)
    monkeypatch.setattr(set_up.SetUp, "bring_uv", lambda self: None)
    monkeypatch.setenv("break", "1")
    once = set_up.SetUp(set_up.CPU, tmp_path)
    assert once.run(only_uv=False) == 1
    assert "--reinstall" not in called[0]
    assert not (tmp_path / ".whole").exists()
    assert "uv ended with 1" in capsys.readouterr().err
    monkeypatch.delenv("break")
    called.clear()
    assert once.run(only_uv=False) == 0
    assert ["--reinstall" in words for words in called] == [True, True, False]  # the kit itself is always built anew
    assert (tmp_path / ".whole").exists()
    called.clear()
    assert once.run(only_uv=False) == 0
    assert not any("--reinstall" in words for words in called)
    monkeypatch.setenv("break", "1")
    assert once.run(only_uv=False) == 1
    assert not (tmp_path / ".whole").exists()


def test_in_a_pipe_each_phase_is_one_line_and_in_between_is_silence(tmp_path, monkeypatch, capsys):
    called = []
    monkeypatch.setattr(set_up.SetUp, "call", lambda self, *words: called.append([*map(str, words)]))
    monkeypatch.setattr(set_up.SetUp, "answers", lambda self, *words: "")
    assert set_up.SetUp(set_up.CPU, tmp_path).run(only_uv=False) == 0
    told = capsys.readouterr().err.splitlines()
    assert len(told) == len(called) + 2  # what it takes, a line a step, how to go on
    assert "GB" in told[0]
    assert "minutes" in told[0]
    assert "make demo" in told[-1]
    assert all("--quiet" in words or "-qq" in words for words in called[1:])


def test_everything_is_installed_by_its_hash(tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr(set_up.SetUp, "call", lambda self, *words: called.append([*map(str, words)]))
    monkeypatch.setattr(set_up.SetUp, "answers", lambda self, *words: "")
    for kind in (set_up.CPU, set_up.GPU, set_up.LATEST):
        set_up.SetUp(kind, tmp_path).run(only_uv=False)
    installs = [words for words in called if "install" in words and "--editable" not in words]
    assert len(installs) == 7
    assert all("--require-hashes" in words and "--no-deps" in words for words in installs)


def test_of_the_configuration_only_the_way_to_a_registry_is_kept(nothing_configured, monkeypatch, tmp_path):
    for name, value in HOSTILE.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PIP_TIMEOUT", "7")
    monkeypatch.setenv("UV_INDEX_MINE_PASSWORD", "secret")
    found = registry.environment()
    assert not HOSTILE.keys() & found.keys()
    assert (found["PIP_CONFIG_FILE"], found["UV_NO_CONFIG"]) == (os.devnull, "1")
    assert (found["PIP_TIMEOUT"], found["UV_INDEX_MINE_PASSWORD"]) == ("7", "secret")
    assert found["PATH"] == os.environ["PATH"]
    assert "UV_DEFAULT_INDEX" not in found


@pytest.mark.parametrize(
    "place", ["XDG_CONFIG_HOME/pip/pip.conf", "XDG_CONFIG_DIRS/pip/pip.conf", ".pip/pip.conf", "etc/pip.conf"]
)
def test_what_pip_is_configured_for_is_told_to_uv_too(place, nothing_configured, monkeypatch, tmp_path):
    (tmp_path / "wheels").mkdir()
    text = f"""
[global]
index-url = https://mirror.example/simple
user = true
cert = /mirror.pem
[install]
extra-index-url = https://one.example/simple
    https://two.example/simple
find-links = {tmp_path}/wheels {tmp_path}/gone
trusted-host = one.example
"""
    write(tmp_path / place, text)
    monkeypatch.setenv("PIP_PROXY", "http://proxy.example:3128")
    found = registry.environment()
    assert found["PIP_INDEX_URL"] == found["UV_DEFAULT_INDEX"] == "https://mirror.example/simple"
    assert found["UV_INDEX"].split() == found["PIP_EXTRA_INDEX_URL"].split()
    assert found["UV_INDEX"].split() == ["https://one.example/simple", "https://two.example/simple"]
    assert found["UV_FIND_LINKS"] == f"{tmp_path}/wheels"  # uv fails where a folder is missing
    assert found["PIP_TRUSTED_HOST"] == found["UV_INSECURE_HOST"] == "one.example"
    assert found["PIP_CERT"] == found["SSL_CERT_FILE"] == "/mirror.pem"
    assert found["PIP_PROXY"] == found["ALL_PROXY"] == "http://proxy.example:3128"
    assert "PIP_USER" not in found


UV_TOML = """
no-build = true
[[index]]
name = "mine"
url = "https://mine.example/simple"
[[index]]
url = "https://first.example/simple"
default = true
[pip]
require-hashes = true
"""


@pytest.mark.parametrize("place", ["XDG_CONFIG_HOME/uv/uv.toml", "XDG_CONFIG_DIRS/uv/uv.toml"])
def test_what_uv_is_configured_for_is_told_to_pip_too(place, nothing_configured, tmp_path):
    write(tmp_path / place, UV_TOML)
    found = registry.environment()
    assert found["PIP_INDEX_URL"] == found["UV_DEFAULT_INDEX"] == "https://first.example/simple"
    assert found["UV_INDEX"] == "mine=https://mine.example/simple"
    assert found["PIP_EXTRA_INDEX_URL"] == "https://mine.example/simple"


def test_what_is_said_for_one_of_them_is_not_overruled_by_the_other(nothing_configured, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "https://pip.example/simple")
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://uv.example/simple")
    found = registry.environment()
    assert found["PIP_INDEX_URL"] == "https://pip.example/simple"
    assert found["UV_DEFAULT_INDEX"] == "https://uv.example/simple"


def test_of_pips_settings_the_nearest_one_counts(nothing_configured, monkeypatch, tmp_path):
    def told(url: str, section: str = "global") -> str:
        return f"[{section}]\nindex-url = https://{url}.example/simple\n"

    write(tmp_path / "XDG_CONFIG_DIRS/pip/pip.conf", told("system"))
    assert registry.environment()["PIP_INDEX_URL"] == "https://system.example/simple"
    write(tmp_path / "XDG_CONFIG_HOME/pip/pip.conf", told("user"))
    assert registry.environment()["PIP_INDEX_URL"] == "https://user.example/simple"
    monkeypatch.setenv("PIP_CONFIG_FILE", str(write(tmp_path / "named.conf", told("named"))))
    assert registry.environment()["PIP_INDEX_URL"] == "https://named.example/simple"
    write(tmp_path / "XDG_CONFIG_DIRS/pip/pip.conf", told("section", "install"))
    assert registry.environment()["PIP_INDEX_URL"] == "https://section.example/simple"
    monkeypatch.setenv("PIP_INDEX_URL", "https://variable.example/simple")
    assert registry.environment()["PIP_INDEX_URL"] == "https://variable.example/simple"
    monkeypatch.delenv("PIP_INDEX_URL")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    assert "PIP_INDEX_URL" not in registry.environment()


def test_a_configuration_that_cannot_be_read_is_none(nothing_configured, tmp_path):
    write(tmp_path / "XDG_CONFIG_HOME/uv/uv.toml", "this is not TOML")
    write(tmp_path / "XDG_CONFIG_HOME/pip/pip.conf", "this is not INI")
    assert "UV_DEFAULT_INDEX" not in registry.environment()


def test_make_keeps_what_would_change_python_from_the_kit():
    hostile = ["PYTHONPATH", "PYTHONOPTIMIZE", "PYTEST_ADDOPTS", "PYTEST_PLUGINS"]
    run = subprocess.run(
        ["make", "--eval", "surroundings: ; @env", "surroundings"],
        cwd=machine.ROOT,
        env={**os.environ, **dict.fromkeys(hostile, "/nowhere")},
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    names = {line.partition("=")[0] for line in run.stdout.splitlines()}
    assert "PATH" in names
    assert not names & set(hostile)


@pytest.mark.long
@pytest.mark.network
def test_a_hostile_machine_gets_uv_all_the_same(tmp_path):
    """A path with a space and an umlaut, a long TMPDIR with spaces, no UTF-8, and a configuration that forbids it."""
    place, temporary = tmp_path / "ein schöner Ort", tmp_path / ("lang und länger " * 7)
    temporary.mkdir()
    for folder in ("repro", "scripts", "requirements"):
        shutil.copytree(machine.ROOT / folder, place / folder, ignore=shutil.ignore_patterns("__pycache__"))
    run = subprocess.run(
        [sys.executable, "scripts/set_up.py", "--only-uv"],
        cwd=place,
        env={**os.environ, **HOSTILE, "PYTHONPATH": "", "LC_ALL": "C", "TMPDIR": str(temporary)},
        capture_output=True,
        encoding="utf-8",
    )
    assert run.returncode == 0, run.stderr
    assert len(run.stderr.splitlines()) == 2
    uv = subprocess.run([place / ".venv/bin/uv", "--version"], capture_output=True, encoding="utf-8", check=True)
    assert uv.stdout.startswith(set_up.pin_of_uv())
