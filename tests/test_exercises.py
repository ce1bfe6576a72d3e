"""The exercises outside Jupyter: each fails unsolved and passes solved, and no file of a reader's ends the watcher."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys

import nbformat
import psutil
import pytest

from fixed.exercises import EXERCISES
from fixed.exercises import __main__ as watcher
from fixed.exercises.exercise import BAD_FILE, NOT_YET, PASSED
from scripts import notebooks
from tests import machine

WITH_ITS_OWN_GRADER = {"09_the_relatives.ipynb"}  # the drill
SLOW = {"fix": pytest.mark.long}
RIGHT = """
from fixed.orders.protocols import create, in_turn, link, register

def mine(n):
    steps = [register(0), create(0)]
    for name in range(1, n + 1):
        steps += [register(name), link(name)]
    return in_turn(n, lambda number: [] if number else steps, lambda number: n - number)
"""
LATE = RIGHT.replace("[] if number else steps", "[] if number < n else steps")
TWICE = RIGHT.replace("return in_turn", "return 2 * in_turn")
ENDLESS = RIGHT.replace("steps = [", "while True: pass\n    steps = [")
WAITS = (
    RIGHT.replace("in_turn,", "answers, in_turn,").replace("return in_turn", "return [*in_turn").rstrip()
    + ", answers(9)]"
)
DEAR = """
from fixed.orders.protocols import create, in_turn, register

def mine(n):
    steps = [step for name in range(n + 1) for step in (register(name), create(name))]
    return in_turn(n, lambda number: [] if number else steps, lambda number: number)
"""


def graded(folder, name: str, text: str):
    """What a file with this text comes to."""
    path = folder / "attempt.py"
    path.write_text(text, encoding="utf-8")
    return EXERCISES[name].of_file(path)


def function(name: str, *sources: str) -> ast.FunctionDef:
    """The only function of this name in pieces of source."""
    nodes = [node for source in sources for node in ast.parse(source).body]
    [found] = [node for node in nodes if isinstance(node, ast.FunctionDef) and node.name == name]
    return found


def exercise_cells(path) -> list[str]:
    """The cells of a notebook that are tagged as exercises."""
    cells = nbformat.read(path, as_version=4).cells
    return [cell.source for cell in cells if "exercise" in notebooks.tags(cell)]


def solution_of(exercise) -> str:
    """The solution's function, and the functions of the solutions before it."""
    cells = exercise_cells(notebooks.FOLDER / "solutions" / exercise.notebook)
    nodes = [node for cell in cells for node in ast.parse(cell).body if isinstance(node, ast.FunctionDef)]
    names = [node.name for node in nodes]
    return "\n\n".join(map(ast.unparse, nodes[: names.index(exercise.function) + 1]))


def test_every_exercise_of_a_notebook_is_here():
    having = {path.name for path in notebooks.paths() if path.parent == notebooks.FOLDER and exercise_cells(path)}
    assert having - WITH_ITS_OWN_GRADER == {exercise.notebook for exercise in EXERCISES.values()}


@pytest.mark.parametrize("exercise", EXERCISES.values(), ids=EXERCISES)
def test_the_file_begins_as_the_notebook_does(exercise):
    theirs = function(exercise.function, *exercise_cells(notebooks.FOLDER / exercise.notebook))
    assert ast.dump(function(exercise.function, exercise.template)) == ast.dump(theirs)


@pytest.mark.parametrize(
    "exercise", [pytest.param(each, marks=SLOW.get(name, ())) for name, each in EXERCISES.items()], ids=EXERCISES
)
def test_fails_unsolved_and_passes_solved(exercise, tmp_path):
    unsolved = graded(tmp_path, exercise.name, exercise.template)
    assert unsolved.status == NOT_YET
    assert unsolved.text.startswith("not yet: ")
    assert unsolved.text.count("hint: ") == 1
    solution = solution_of(exercise)
    ours = ast.unparse(function(exercise.function, exercise.template))
    solved = graded(tmp_path, exercise.name, ast.unparse(ast.parse(exercise.template)).replace(ours, solution))
    assert solved.status == PASSED
    assert solved.text.startswith("passed: ")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LATE, "a consumer cannot open"),
        (LATE, "hint: A send carries a name that is not there"),
        (TWICE, "each of them once; it sends [0, 0, 1, 1, 2, 2]"),
        (EXERCISES["protocol"].template, "hint: Look for the name that is left"),
        (ENDLESS, "mine(2) did not end within"),
        (WAITS, "It waits for 9 answers after 3 sends"),
        ("def mine(n):\n    return 7", "It has to return a list of steps"),
        ("def mine(n):\n    return n.name", "mine(2) raised AttributeError"),
        ("def mine(n):\n    exit(3)", "mine(2) raised SystemExit"),
    ],
)
def test_each_wrong_protocol_has_a_hint(text, said, tmp_path, monkeypatch):
    if text == ENDLESS:  # the others have to end by themselves, also on a busy machine
        monkeypatch.setattr("fixed.exercises.protocol.LIMIT", 0.5)
    told = graded(tmp_path, "protocol", text)
    assert told.status == NOT_YET
    assert said in told.text


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return wrap_shm_features(copy.copy(request))", "FileNotFoundError\nhint: `wrap_shm_features` mutates"),
        ("return None", "refused: AttributeError\nhint: `my_wrap` raised an error"),
        ("exit(3)", "refused: SystemExit\nhint: `my_wrap` raised an error"),
        ("while True: pass", "was not sent within 0.5 s\nhint: Look for a loop"),
        ("request = copy.copy(request); request.mm_inputs = None; return request", "intact\nhint: The scheduler lived"),
    ],
)
def test_each_wrong_hook_has_a_hint(body, said, tmp_path, monkeypatch):
    if "while" in body:
        monkeypatch.setattr("fixed.exercises.hook.LIMIT", 0.5)
    told = graded(tmp_path, "hook", f"import copy\ndef my_wrap(wrap_shm_features, request):\n    {body}\n")
    assert told.status == NOT_YET
    assert said in told.text


def test_a_hook_that_never_wraps_is_right_and_told_so(tmp_path):
    told = graded(tmp_path, "hook", "def my_wrap(wrap_shm_features, request):\n    return request\n")
    assert told.status == PASSED
    assert "hint: Right, but without shared memory" in told.text


def test_a_right_protocol_has_a_price(tmp_path):
    cheap, dear = graded(tmp_path, "protocol", RIGHT), graded(tmp_path, "protocol", DEAR)
    assert (cheap.status, dear.status) == (PASSED, PASSED)
    assert "price: 1 segment\n" in cheap.text
    assert "price: 4 segments\nhint: Right, but" in dear.text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\ndef prepare(request)\n", "attempt.py, line 2: expected ':'"),
        ("x = 1\nx.y\n", "attempt.py, line 2: AttributeError: "),
        ("import sys\nsys.exit(0)\n", "attempt.py, line 2: SystemExit: 0"),
        ("x = 1\n", "attempt.py has no function 'mine': define mine"),
        ("while True: pass\n", "was not loaded within 0.5 s: look for a loop"),
        ("\0", "null"),
    ],
)
def test_a_bad_file_is_told_in_one_line(text, said, tmp_path, monkeypatch):
    monkeypatch.setattr("fixed.exercises.exercise.LIMIT", 0.5)
    told = graded(tmp_path, "protocol", text)
    assert told.status == BAD_FILE
    assert said in told.text
    assert "\n" not in told.text


def test_what_cannot_be_read_is_told(tmp_path):
    exercise = EXERCISES["fix"]
    assert "No such file" in exercise.of_file(tmp_path / "missing.py").text
    assert "Is a directory" in exercise.of_file(tmp_path).text
    (tmp_path / "latin.py").write_bytes(b"# \xe9\n")
    assert "UTF-8" in exercise.of_file(tmp_path / "latin.py").text


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        (RIGHT, PASSED, "passed: "),
        (EXERCISES["protocol"].template, NOT_YET, "hint: "),
        ("import os\nos._exit(0)\n", BAD_FILE, "ended the process that graded it"),
    ],
)
def test_once_says_it_by_its_status(text, status, said, tmp_path):
    path = tmp_path / "attempt.py"
    path.write_text(text, encoding="utf-8")
    run = machine.command("-m", "fixed.exercises", "protocol", "--once", str(path), folder=tmp_path)
    assert run.returncode == status
    assert said in (run.stderr if status == BAD_FILE else run.stdout)
    assert (run.stdout if status == BAD_FILE else run.stderr) == ""


def test_bad_usage_is_one_line(tmp_path):
    run = machine.command("-m", "fixed.exercises", "clinic", folder=tmp_path)
    assert (run.returncode, run.stdout, len(run.stderr.splitlines())) == (2, "", 1)
    assert "'fix'" in run.stderr


def test_the_readers_file_is_made_once_and_never_overwritten(tmp_path, monkeypatch):
    monkeypatch.setattr(watcher, "FOLDER", tmp_path / "exercises")
    exercise = EXERCISES["fix"]
    path = watcher.begun(exercise)
    assert path.read_text(encoding="utf-8") == exercise.template
    path.write_text("mine", encoding="utf-8")
    assert watcher.begun(exercise) == path
    assert path.read_text(encoding="utf-8") == "mine"


def test_git_ignores_the_readers_files():
    place = watcher.FOLDER / "fix.py"
    assert not subprocess.run(["git", "check-ignore", "-q", place], cwd=machine.ROOT, timeout=20).returncode


WATCH = """
import sys, pathlib
from fixed.exercises import __main__ as watcher
watcher.FOLDER = pathlib.Path(sys.argv[1])
sys.exit(watcher.main(["protocol"]))
"""


def test_each_save_is_graded_and_ctrl_c_ends_it(tmp_path):
    """A save by writing, a save by renaming, a file that cannot be read by Python, one that kills its process."""
    output, path, names = tmp_path / "output", tmp_path / "protocol.py", machine.names()
    with open(output, "w", encoding="utf-8") as sink:
        words = [sys.executable, "-c", WATCH, str(tmp_path)]
        run = subprocess.Popen(words, cwd=machine.ROOT, env=machine.surroundings(tmp_path), stdout=sink, stderr=sink)

    def wait_for(text):
        machine.wait_for(lambda: text in output.read_text(encoding="utf-8"), 30, text)

    try:
        wait_for("hint: ")
        (tmp_path / "new").write_text(RIGHT, encoding="utf-8")
        os.replace(tmp_path / "new", path)
        wait_for("passed: ")
        path.write_text("def mine(n)\n", encoding="utf-8")
        wait_for("protocol.py, line 1: expected ':'")
        path.write_text("import os\nos._exit(0)\n", encoding="utf-8")
        wait_for("ended the process that graded it")
        path.write_text(RIGHT + "\n", encoding="utf-8")
        machine.wait_for(lambda: output.read_text(encoding="utf-8").count("passed: ") == 2, 30, "a second pass")
        children = psutil.Process(run.pid).children(recursive=True)
        run.send_signal(signal.SIGINT)
        assert run.wait(30) == 0
    finally:
        run.kill()
        run.wait(30)
    assert children
    psutil.wait_procs(children, 10)
    assert not [child for child in children if child.is_running()]
    assert "Traceback" not in output.read_text(encoding="utf-8")
    assert machine.names() <= names
