"""Any words after any command: the exit status is 0, 1 or 2. If the command did not run, stderr has one line. There is
no traceback, and nothing is left.

The commands run in this process. The slow part, the experiment itself, was made before.
"""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fixed.clinic.__main__ as clinic
import fixed.orders.__main__ as orders
from fixed import detach
from fixed.clinic.battery import Health
from fixed.clinic.measure import Row
from fixed.designs import ONE_SEGMENT
from fixed.lab import FIXES
from repro.lab import __main__ as lab
from repro.lab import doctor
from repro.lab.cases.found import Found
from repro.lab.cases.stage import Stage
from repro.lab.drill import __main__ as drill
from repro.lab.engine import command as engine_command
from repro.lab.engine import launcher
from repro.lab.evidence.verdict import Verdict
from repro.lab.lifted import run
from repro.lab.refused import Refused
from repro.lab.server import command as server_command
from repro.lab.upstream import source
from tests import machine

HOSTILE = [
    "",
    " ",
    "-",
    "--",
    "-1",
    "0",
    "1",
    "2",
    "nan",
    "inf",
    "1e999",
    "9" * 5000,
    "x" * 300,
    "~nobody/x",
    "~",
    "é\n",
]
HOSTILE += [
    "/dev/null",
    "/proc/self/mem",
    ".",
    "README.md",
    "tests",
    "\udcff",
    "%s",
    "{0}",
    "a:b",
    "os:nothing",
    ":",
    "@",
]
EXAMPLES = settings(
    max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@dataclass(frozen=True)
class Ended:
    """The result of a command."""

    status: object
    stdout: str
    stderr: str


def ended(main, words: list[str]) -> Ended:
    """`main` with these words on its command line, to its end."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        patch.setattr(sys, "argv", ["command", *words])
        try:
            status = main(words)
        except SystemExit as leaving:  # --help
            status = leaving.code
    return Ended(status, stdout.getvalue(), stderr.getvalue())


def any_words(options: list[str], values: list[str]) -> st.SearchStrategy[list[str]]:
    """Options of the command and values for them, in any order, with other words in between, right and wrong."""
    value = st.one_of(st.sampled_from(values + HOSTILE), st.text(st.characters(exclude_characters="\0/"), max_size=8))
    option = st.sampled_from(options)
    pair = st.tuples(option, value)
    piece = st.one_of(
        pair.map(list),
        pair.map(lambda both: ["=".join(both)]),
        option.map(lambda one: [one]),
        value.map(lambda one: [one]),
    )
    return st.lists(piece, max_size=4).map(lambda pieces: [word for piece in pieces for word in piece])


def holds(main, words: list[str]) -> None:
    """The promise of every command line."""
    told = ended(main, words)
    assert told.status in (0, 1, 2), (words, told)
    if told.status == 2:
        assert told.stdout == "", (words, told)
        assert len(told.stderr.splitlines()) == 1, (words, told)
    assert "Traceback" not in told.stderr, (words, told)


@pytest.fixture(scope="module")
def made():
    return run(n=2)


@pytest.fixture
def quick(monkeypatch, made, tmp_path):
    """Nothing is slow here: experiments and engines give results that were made before, and nothing is downloaded or
    measured."""

    read = source.read

    def installed_only(release, file):
        if source.name_of(release) != source.installed_version():
            raise Refused(f"cannot download sglang {release}: no package registry answers", "check the network")
        return read(release, file)

    def crashed(scene, arguments, **_):
        assert isinstance(arguments.n, int)
        return Verdict("crashed", n=arguments.n, error="OSError")

    def no_hub(*_):
        raise OSError("no network")

    place = tmp_path / "place"  # of what a command may write there
    (place / "tests").mkdir(parents=True)
    (place / "README.md").touch()
    monkeypatch.chdir(place)
    monkeypatch.setattr(lab.lifted, "run", lambda requests, **fields: made)
    monkeypatch.setattr(lab, "requests", lambda arguments: [])
    monkeypatch.setattr(lab, "measured", lambda engine: iter(()))
    monkeypatch.setattr("repro.lab.drill.dealt.making.make", lambda name: Found.of(name, made, Stage()))
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    monkeypatch.setattr(source, "read", installed_only)
    monkeypatch.setattr(launcher, "run", crashed)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", no_hub)
    monkeypatch.setattr(clinic, "measured", lambda *_, **__: [Row(ONE_SEGMENT, 2, 8, Health([], {}, False, []))])
    monkeypatch.setattr(orders, "explored", lambda arguments: [])
    monkeypatch.setattr(orders, "told", lambda found: [])
    monkeypatch.setattr(orders, "for_real", lambda arguments: 0)
    monkeypatch.setattr(clinic, "in_words", lambda *_: [])
    monkeypatch.setattr(clinic, "chart", lambda rows: "")
    monkeypatch.setattr(doctor, "CHECKS", (doctor.python, doctor.linux))
    return place


def options_of(main) -> list[str]:
    """The options that the command's own help names."""
    told = ended(main, ["--help"])
    assert told.status == 0
    return sorted({word.strip("[],") for word in told.stdout.split() if word.strip("[").startswith("--")})


def repro_crash(words):
    """A scene."""
    return engine_command.main(repro_crash, "crashed")


def repro_server(words):
    """A scene."""
    return server_command.main(repro_server, "crashed")


def fixed_crash(words):
    """A scene."""
    return engine_command.main(fixed_crash, "survived")


COMMANDS = {
    "repro.lab": (
        lab.main,
        ["3", "112", "shm", "tensor", "text", "0.5.13", "installed", "kill@open:1", "fail", "0.5", "e30=", "{}", "[]"],
    ),
    "fixed.lab": (lambda words: lab.main(words, FIXES, "fixed.lab"), ["detach", "one_segment_many_names", "3", "0.1"]),
    "doctor": (doctor.main, []),
    "repro/crash.py": (repro_crash, ["2", "cpu", "cuda", "tiny", "org/name", "What?", "notebooks/pictures/clinic.svg"]),
    "fixed/crash.py": (fixed_crash, ["1", "cpu", "auto", "tiny", "./missing"]),
    "repro/server.py": (repro_server, ["2", "cpu", "tiny", "3"]),
    "repro.lab.drill": (drill.main, ["crash", "tracker", "1", "3", "10", "0x1"]),
    "fixed.orders": (orders.main, ["one_segment_many_names", "2", "3", "kill"]),
    "fixed.clinic": (lambda words: clinic.main(), ["2", "8", "32", "224"]),
    "fixed.detach": (lambda words: detach.main(), []),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_any_words(name, quick, tmp_path):
    main, values = COMMANDS[name]
    options = options_of(main)
    before = machine.names()
    there, said = set(os.listdir(quick)), set()

    @EXAMPLES
    @given(any_words([*options, "--no-such-option"], [*values, str(tmp_path / "new")]))
    def check(words):
        said.update(words)
        holds(main, words)

    check()
    assert machine.names() == before
    made = set(os.listdir(quick)) - there  # such as by --trace FILE
    assert all(any(name in word for word in said) for name in made), made


@pytest.mark.parametrize(
    ("name", "words", "told"),
    [
        (
            "repro/crash.py",
            ["--image", "~nobody-of-this-name/x.png"],
            "--image ~nobody-of-this-name/x.png is not a path",
        ),
        ("repro/crash.py", ["--log", "~nobody-of-this-name/log"], "--log ~nobody-of-this-name/log is not a path"),
        ("repro/crash.py", ["--model=~/nothing/of/this/name"], "no model at ~/nothing/of/this/name"),
        ("repro/crash.py", ["--model", "x" * 300], "--model"),
        ("fixed.clinic", ["--chart", "~nobody-of-this-name/x.svg"], "--chart ~nobody-of-this-name/x.svg is not a path"),
        ("repro.lab", ["--size", "1000000"], "MB of memory"),
        ("repro.lab", ["--n", "9" * 5000], "give a whole number"),
        ("repro.lab", ["--late", "-1"], "give seconds, 0 or more"),
        ("repro.lab", ["--release", "../../../elsewhere"], "is not a release"),
    ],
)
def test_refused_in_one_line(quick, name, words, told):
    result = ended(COMMANDS[name][0], words)
    assert (result.status, result.stdout, len(result.stderr.splitlines())) == (2, "", 1), result
    assert told in result.stderr


@pytest.mark.parametrize("main", [repro_crash, lab.main], ids=["repro/crash.py", "repro.lab"])
@pytest.mark.parametrize("what", ["pipe", "/dev/full"])
def test_a_pipe_is_not_waited_for_and_a_device_is_not_read_for_ever(quick, main, what, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for option in ("--image", "--log") if main is repro_crash else ("--trace",):
        result = ended(main, [option, str(tmp_path / what)])
        assert result.status == 2
        assert "is a pipe, a socket or a device" in result.stderr


@pytest.mark.parametrize("name", ["repro.lab", "repro/crash.py"])
def test_a_fault_of_the_kits_own_does_not_pass_for_bad_usage(quick, monkeypatch, name):
    def broken(*_, **__):
        raise ValueError("a fault of the kit's own")

    monkeypatch.setattr(lab.lifted, "run", broken)
    monkeypatch.setattr(launcher, "run", broken)
    with pytest.raises(ValueError, match="of the kit's own"):
        ended(COMMANDS[name][0], [])


def shell(line: str) -> subprocess.CompletedProcess:
    return subprocess.run(["bash", "-c", line], cwd=machine.ROOT, capture_output=True, encoding="utf-8", timeout=60)


@pytest.mark.parametrize("words", [["-m", "scripts.bench_crash"], ["-m", "scripts.notebooks"], ["repro/crash.py"]])
def test_without_docstrings_there_is_still_help(words):
    told = machine.command(*words, "--help", PYTHONOPTIMIZE="2")
    assert (told.returncode, told.stderr) == (0, "")


def test_a_checkout_on_windows_keeps_its_line_ends():
    told = shell("git check-attr eol -- repro/crash.py Makefile requirements/cpu.lock")
    assert told.stdout.count("eol: lf") == 3


def test_the_reader_of_the_output_may_go():
    told = shell(f"{sys.executable} -m repro.lab.doctor | head -n 1")
    assert (told.stdout.count("\n"), told.stderr) == (1, "")


def test_standard_error_may_be_closed():
    told = shell(f"{sys.executable} repro/crash.py --help 2>&-; {sys.executable} repro/crash.py --n 0 2>&-; echo $?")
    assert "--image FILE" in told.stdout
    assert told.stdout.endswith("\n2\n")


def test_a_large_image_is_no_reason_to_warn(tmp_path, monkeypatch, recwarn):
    from PIL import Image

    from repro.lab.machine import preflight

    Image.new("L", (8, 8)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    preflight.require_image(tmp_path / "large.png")
    assert list(recwarn) == []
