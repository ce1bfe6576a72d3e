"""The locks hold everything, name no address, and the environment file names what exists."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml

from repro.lab.releases import NEWEST
from scripts import as_conda
from tests import machine, texts

LOCKS = sorted((machine.ROOT / "requirements").glob("*.lock"))
OURS = {"repro", "fixed", "tests", "scripts"}


def pinned(*locks: str) -> set[str]:
    """The normalised names of what the locks pin."""
    text = "".join((machine.ROOT / "requirements" / f"{lock}.lock").read_text(encoding="utf-8") for lock in locks)
    return {normal(name) for name in re.findall(r"^([A-Za-z0-9][\w.-]*)==", text, re.MULTILINE)}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported() -> set[str]:
    """The top-level modules that our Python files import, the standard library's and our own left out."""
    names = set()
    for folder in OURS:
        for path in (machine.ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    names |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.level == 0:
                    names.add(node.module.partition(".")[0])
    beside = {path.stem for path in (machine.ROOT / "tests" / "upstream").glob("*.py")}  # they import each other
    return names - set(sys.stdlib_module_names) - OURS - beside


def test_every_import_is_in_a_lock():
    distributions = packages_distributions()
    standin = {"sgl_kernel", "_posixshmem", "pip"}  # has a stand-in; is a part of CPython; is in every environment
    missing = [
        name for name in imported() - standin if not {normal(d) for d in distributions[name]} & pinned("cpu", "tools")
    ]
    assert missing == []


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_a_lock_has_hashes_and_no_address(lock):
    text = lock.read_text(encoding="utf-8")
    assert not re.search(r"https?://|--(extra-)?index-url|--find-links|--trusted-host|file:", text)
    packages = re.findall(r"^\S+==\S+.*(?:\n    --hash=sha256:[0-9a-f]{64}.*)+", text, re.MULTILINE)
    assert len(packages) == len(re.findall(r"^\S+==", text, re.MULTILINE)) > 0


def test_the_tools_do_not_move_the_runtime():
    runtime = set(
        re.findall(r"^(\S+==\S+)", (machine.ROOT / "requirements/cpu.lock").read_text(encoding="utf-8"), re.MULTILINE)
    )
    names = {pin.partition("==")[0] for pin in runtime}
    tools = set(
        re.findall(r"^(\S+==\S+)", (machine.ROOT / "requirements/tools.lock").read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert {pin for pin in tools if pin.partition("==")[0] in names} <= runtime


def test_the_runtime_is_the_last_affected_release():
    for lock in ("cpu", "gpu"):
        assert "\nsglang==0.5.12.post1 " in (machine.ROOT / f"requirements/{lock}.lock").read_text(encoding="utf-8")


def test_the_environment_of_the_newest_release_has_it():
    pins = (machine.ROOT / "requirements" / "latest.lock").read_text(encoding="utf-8")
    assert f"\nsglang=={NEWEST} " in pins


@pytest.mark.parametrize("name", ["cpu", "gpu", "latest"])
def test_what_is_left_out_of_a_lock_is_not_in_it(name):
    left_out = (machine.ROOT / "requirements" / f"{name}.without").read_text(encoding="utf-8").splitlines()
    names = {normal(line) for line in left_out if line and not line.startswith("#")}
    assert names
    assert not names & pinned(name)


def test_what_is_installed_is_what_is_locked():
    run = subprocess.run(
        [sys.executable, "-m", "pip", "freeze", "--all"], capture_output=True, encoding="utf-8", check=True
    ).stdout
    freeze = dict(line.split("==") for line in run.splitlines() if "==" in line)
    locked = dict(
        re.findall(
            r"^([\w.-]+)==([^\s;\\]+)",
            (machine.ROOT / "requirements/cpu.lock").read_text(encoding="utf-8"),
            re.MULTILINE,
        )
    )
    for name in ("sglang", "torch", "transformers", "pyzmq", "psutil"):
        assert freeze[name] == locked[name]


def test_environment_yml_names_what_exists():
    text = (machine.ROOT / "environment.yml").read_text(encoding="utf-8")
    environment = yaml.safe_load(text)
    assert environment["channels"] == ["conda-forge", "nodefaults"]
    conda = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    assert {entry.partition("=")[0] for entry in conda} == {"python", "pip", "graphviz"}
    python = next(entry for entry in conda if entry.startswith("python="))
    assert (3, 10) <= tuple(map(int, python.partition("=")[2].split("."))) <= (3, 13)
    (pip,) = (entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert pip == as_conda.pips_part(text) == ["-r requirements/gpu.lock"]
    assert (machine.ROOT / "requirements/gpu.lock").is_file()


def test_make_alone_prints_the_targets():
    run = subprocess.run(["make"], cwd=machine.ROOT, capture_output=True, encoding="utf-8", check=True)
    targets = {line.split()[0] for line in run.stdout.splitlines()}
    assert {"setup", "demo", "gpu", "latest", "test", "check", "lab", "lock", "clean"} <= targets


def test_a_whole_environment_is_not_set_up_again():
    run = subprocess.run(
        ["make", "--dry-run", "setup"], cwd=machine.ROOT, capture_output=True, encoding="utf-8", check=True
    )
    assert "set_up" not in run.stdout


def test_an_installation_has_every_package(monkeypatch):
    """Each folder of `repro` and `fixed` with an `__init__.py`, and the hotfix in a project of its own."""
    from setuptools import Distribution

    monkeypatch.chdir(machine.ROOT)
    distribution = Distribution()
    distribution.parse_config_files()
    rooms = [path.parent for top in ("repro", "fixed") for path in Path(top).rglob("__init__.py")]
    ours = {".".join(room.parts) for room in rooms if room.parts[:2] != ("fixed", "hotfix")}
    assert ours <= set(distribution.packages)
    assert not [package for package in distribution.packages if "hotfix" in package]


@pytest.mark.parametrize("script", ["bench_crash", "bench_lab", "bench_server", "latest", "notebooks"])
def test_a_script_that_is_run_by_hand_can_still_be_started(script):
    run = machine.command("-m", f"scripts.{script}", "--help")
    assert (run.returncode, run.stderr) == (0, "")


def test_the_newest_release_is_not_run_in_another_environment():
    run = machine.command("-m", "scripts.latest")
    assert (run.returncode, run.stdout, len(run.stderr.splitlines())) == (2, "", 1)
    assert run.stderr.endswith(f"but this needs {NEWEST}: make latest\n")


@pytest.mark.parametrize("target", ["setup", "gpu", "latest"])
def test_one_that_is_not_whole_is_set_up(target):
    run = subprocess.run(["make", "-Bn", target], cwd=machine.ROOT, capture_output=True, encoding="utf-8", check=True)
    assert "scripts/set_up.py" in run.stdout


@pytest.mark.parametrize("folder", sorted(OURS))
def test_every_text_names_its_encoding(folder):
    """Otherwise a text with an umlaut would be read in the encoding of the user's locale."""
    for path in (machine.ROOT / folder).rglob("*.py"):
        lines = [call.lineno for call in texts.unnamed(ast.parse(path.read_text(encoding="utf-8")))]
        assert lines == [], f"{path.relative_to(machine.ROOT)}: say encoding='utf-8'"


@pytest.mark.parametrize(
    ("call", "named"),
    [
        ("open(path)", False),
        ("open(path, 'w')", False),
        ("open(path, 'rb')", True),
        ("open(path, encoding='utf-8')", True),
        ("os.open(path, 0)", True),
        ("path.read_text()", False),
        ("found.read_text('METADATA')", True),
        ("path.write_text(text)", False),
        ("NamedTemporaryFile(dir=folder)", True),
        ("NamedTemporaryFile('w', dir=folder)", False),
        ("run(words, text=True)", False),
        ("Request(text='two')", True),
    ],
)
def test_such_a_text_is_seen(call, named):
    assert (list(texts.unnamed(ast.parse(call))) == []) == named


def test_both_projects_have_the_license_that_lies_here():
    assert "Version 2.0, January 2004" in (machine.ROOT / "LICENSE").read_text(encoding="utf-8")
    for project in ("pyproject.toml", "fixed/hotfix/pyproject.toml"):
        assert '\nlicense = "Apache-2.0"\n' in (machine.ROOT / project).read_text(encoding="utf-8")


def test_the_checksums_are_part_of_the_package(tmp_path):
    """setuptools would put them into a wheel. The test asks setuptools in a copy of the project, so that lists of an
    earlier build do not matter."""
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(machine.ROOT / name, tmp_path)
    shutil.copytree(machine.ROOT / "repro", tmp_path / "repro")
    ask = "import setuptools.dist as d; it = d.Distribution({'script_name': '-'}); it.parse_config_files(); "
    ask += "build = it.get_command_obj('build_py'); build.ensure_finalized(); print(build.data_files)"
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ask], cwd=tmp_path, capture_output=True, encoding="utf-8"
    )
    assert "releases.sha256" in run.stdout, run.stderr


@pytest.mark.parametrize("file", ["Dockerfile", ".devcontainer/devcontainer.json", ".github/workflows/ci.yml"])
def test_a_container_gets_room_in_shm_and_a_python_that_fits(file):
    """None of these files is run here, and each of them says so."""
    text = (machine.ROOT / file).read_text(encoding="utf-8")
    assert "--shm-size=1g" in text
    assert re.search("not (built|run) here", text.lower())
    (minor,) = re.findall(r"python:3\.(\d+)-", text)
    assert 10 <= int(minor) <= 13


def test_ci_runs_what_a_user_runs_and_publishes_the_book():
    jobs = yaml.safe_load((machine.ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))["jobs"]
    commands = [step["run"] for step in jobs["test"]["steps"] if "run" in step]
    assert commands == ["bash .ci/run", "make book"]
    places = [step["with"]["path"] for step in jobs["test"]["steps"] if "with" in step]
    assert places == ["build/book"]
