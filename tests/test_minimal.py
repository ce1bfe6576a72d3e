"""The pair of one screen each: it keeps its promise on every Python here, uninstalled, and leaves nothing."""

from __future__ import annotations

import ast
import difflib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests import machine
from tests.pythons import PROMISED, python_of

SIDES = ("repro", "fixed")

CRASH = [
    ("tokenizer", "create", "name 1"),
    ("scheduler", "open", "name 1"),
    ("scheduler", "unlink", "name 1"),
    ("scheduler", "open failed", "name 1"),
]
TOLD = {
    "repro": [
        "tokenizer create       name 1",
        "scheduler open         name 1",
        "scheduler unlink       name 1",
        "scheduler open failed  name 1",
    ],
    "fixed": [
        "tokenizer create       name 1, name 2, name 3",
        "scheduler open         name 1, name 2, name 3",
        "scheduler unlink       name 1, name 2, name 3",
        "scheduler open failed  nothing",
    ],
}


def path(side: str) -> Path:
    return machine.ROOT / side / "minimal.py"


def execute(python: str, script: Path, folder: Path):
    """Run `script` from `folder`, without site-packages and without this repository on the path."""
    words = [python, "-I", "-S", "-X", "dev", str(script)]
    return subprocess.run(
        words, cwd=folder, capture_output=True, encoding="utf-8", timeout=60, stdin=subprocess.DEVNULL
    )


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("version", [None, *PROMISED], ids=["this one", *PROMISED])
def test_keeps_its_promise_and_leaves_nothing(side, version, tmp_path):
    python = python_of(version) if version else sys.executable
    before = machine.names()
    run = execute(python, path(side), tmp_path)
    assert run.stderr == ""  # a resource tracker that finds something left would say so here
    assert run.stdout.splitlines() == TOLD[side]
    assert run.returncode == 0
    assert machine.left_since(before) == set()
    assert list(tmp_path.iterdir()) == []


# The account, as a program sees it: the same call on both sides, as often as one likes.


def events_of(side: str, n: int) -> list[tuple[str, str, str]]:
    program = f"import json; from {side} import minimal; print(json.dumps([minimal.run({n}), minimal.run({n})]))"
    run = machine.command("-c", program)
    assert run.returncode == 0, run.stderr
    first, second = json.loads(run.stdout)
    assert first == second
    return [tuple(event) for event in first]


@pytest.mark.parametrize("n", [2, 3, 8])
def test_the_first_sample_crashes_whatever_n(n):
    assert events_of("repro", n) == CRASH


@pytest.mark.parametrize("n", [2, 3, 8])
def test_with_the_fix_each_send_has_a_name_of_its_own(n):
    names = [f"name {k}" for k in range(1, n + 2)]
    events = events_of("fixed", n)
    assert len(events) == 3 * len(names)
    for name, life in ((name, [event for event in events if event[2] == name]) for name in names):
        assert life == [("tokenizer", "create", name), ("scheduler", "open", name), ("scheduler", "unlink", name)]


# Broken on purpose, it says so.

DETACHED = "SimpleNamespace(mm_items=[copy.copy(item) for item in request.mm_inputs.mm_items])"
BROKEN = {
    "a deep copy does not crash": ("repro", "copy.copy(request)", "copy.deepcopy(request)"),
    "a name that stays does not crash": ("repro", "self.shm.unlink()", "pass"),
    "a name that never was is another crash": ("repro", "return self.shm.name", "return 'psm_never_was'"),
    "no samples": ("repro", "range(request.parallel_sample_num)", "()"),
    "the fix at the samples alone": ("fixed", f"warm_up.mm_inputs = {DETACHED}", "pass"),
    "the fix at the warm-up alone": ("fixed", f"sample.mm_inputs = {DETACHED}", "pass"),
    "a new list of the same items": ("fixed", "[copy.copy(item) for item in", "[item for item in"),
    "other bytes": ("fixed", 'rstrip(b"\\0")', 'replace(b"c", b"g")'),
    "a sample too few": ("fixed", "range(request.parallel_sample_num)", "range(request.parallel_sample_num - 1)"),
}


def broken(side: str, old: str, new: str, folder: Path) -> Path:
    """A copy of that side's script in `folder`, with `new` for `old`."""
    source = path(side).read_text(encoding="utf-8")
    assert old in source
    script = folder / "broken.py"
    script.write_text(source.replace(old, new), encoding="utf-8")
    return script


@pytest.mark.parametrize("how", BROKEN)
def test_broken_it_goes_red(how, tmp_path):
    run = execute(sys.executable, broken(*BROKEN[how], tmp_path), tmp_path)
    assert run.returncode == 1
    assert len(run.stdout.splitlines()) == 4  # it ran to its end: what is red is the promise


def test_a_consumer_that_is_killed_is_waited_for_in_vain_and_leaves_nothing(tmp_path):
    script = broken("fixed", "self.shm.unlink()", "__import__('os')._exit(1)", tmp_path)
    script.write_text(script.read_text(encoding="utf-8").replace("timeout=10", "timeout=1"), encoding="utf-8")
    before = machine.names()
    run = execute(sys.executable, script, tmp_path)
    assert (run.returncode, run.stdout) == (1, "")
    assert "TimeoutError" in run.stderr
    assert machine.left_since(before) == set()


# What the two files are.


@pytest.mark.parametrize("side", SIDES)
def test_one_screen(side):
    lines = path(side).read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 70
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize("side", SIDES)
def test_standard_library_only(side):
    for node in ast.walk(ast.parse(path(side).read_text(encoding="utf-8"))):
        assert not (isinstance(node, ast.ImportFrom) and node.level)
        names = [node.module] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        assert all(name.partition(".")[0] in sys.stdlib_module_names for name in names)


@pytest.mark.parametrize("side", SIDES)
def test_upstreams_names_can_be_searched_for(side):
    nodes = list(ast.walk(ast.parse(path(side).read_text(encoding="utf-8"))))
    defined = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    used = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    assert {"ShmPointerMMData", "__getstate__", "__setstate__", "materialize"} <= defined
    assert {"wrap_shm_features", "_handle_batch_request"} <= defined
    assert {"mm_inputs", "mm_items", "feature", "parallel_sample_num"} <= used


@pytest.mark.parametrize("side", SIDES)
def test_only_main_prints(side):
    printing = [
        outer.name
        for outer in ast.parse(path(side).read_text(encoding="utf-8")).body
        if isinstance(outer, ast.FunctionDef | ast.ClassDef)
        and any(isinstance(node, ast.Name) and node.id == "print" for node in ast.walk(outer))
    ]
    assert printing == ["main"]


def test_the_pair_differs_in_the_fix_and_the_promise_only():
    repro, fixed = (path(side).read_text(encoding="utf-8").splitlines() for side in SIDES)
    changed = [line for line in difflib.ndiff(repro, fixed) if line[:2] in ("- ", "+ ")]
    promise = [line for line in changed if line[2:].startswith(('"""', "    return 0 if "))]
    fix = [line[2:].strip() for line in changed if line not in promise]
    assert [line[0] for line in promise] == ["-", "+"] * 2
    assert fix == [f"warm_up.mm_inputs = {DETACHED}", f"sample.mm_inputs = {DETACHED}"]
