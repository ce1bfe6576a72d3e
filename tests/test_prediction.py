"""A prediction is compared with what the run gave: unanswered, right, wrong, and of another kind."""

from __future__ import annotations

import ast
import re

import nbformat
import pytest

from repro.lab.teaching import show
from repro.lab.teaching.prediction import NONE, told
from scripts import notebooks

ASKS = re.compile(r"\*\*(Predict|先猜一猜)")
PATHS = [path for path in notebooks.paths() if path.parent == notebooks.FOLDER]
ASKING = [path for path in PATHS if ASKS.search(path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("actual", ["scheduler", 3, True, {"two-level"}, {"n = 1": "survived"}])
def test_without_a_prediction_the_answer_is_not_given_away(actual):
    assert told(None, actual) == told({"n = 1": None}, {"n = 1": "survived"}) == NONE
    assert "no prediction" in NONE


@pytest.mark.parametrize(
    ("predicted", "actual", "line"),
    [
        ("scheduler", "scheduler", "right: scheduler"),
        (" Scheduler ", "scheduler", "right: scheduler"),
        ("tokenizer", "scheduler", "not so: you said tokenizer, it was scheduler"),
        (3, 3, "right: 3"),
        (3.0, 3, "right: 3"),
        (100_000, 1000, "not so: you said 100,000, it was 1,000"),
        (False, False, "right: False"),
        (True, False, "not so: you said True, it was False"),
        (["b", "A"], {"a", "b"}, "right: a, b"),
        (("a",), {"a", "b"}, "not so: you said a, it was a, b"),
        (set(), {"a"}, "not so: you said none, it was a"),
    ],
)
def test_right_and_wrong(predicted, actual, line):
    assert told(predicted, actual) == line


@pytest.mark.parametrize(
    ("predicted", "actual", "kind"),
    [
        ("3", 3, "a number"),
        (1, True, "True or False"),
        (True, 1, "a number"),
        (4, "sample 1", "a text"),
        ("copy.copy", {"copy.copy"}, "a set"),
        ("crashed", {"n = 1": "survived"}, "a dict"),
    ],
)
def test_another_kind_is_not_called_wrong(predicted, actual, kind):
    line = told(predicted, actual)
    assert line.startswith(f"not compared: you said {predicted}, and the answer is {kind}")
    assert "right" not in line


def test_each_key_of_a_dict_is_a_prediction_of_its_own():
    actual = {1: "sample 2", 2: "sample 1", 3: "nowhere"}
    assert told({1: "sample 2", 2: "warm-up", 3: None}, actual) == (
        "1 of 2 right; 1: right: sample 2; 2: not so: you said warm-up, it was sample 1"
    )
    assert told({9: "sample 2"}, actual) == "no such key: 9; the keys are 1, 2, 3"


def test_it_is_printed(capsys):
    show.checked("a", "a")
    assert capsys.readouterr().out == "right: a\n"


@pytest.mark.parametrize("path", ASKING, ids=lambda path: path.name)
def test_a_notebook_that_says_predict_checks_a_prediction(path):
    """There is a place for an answer, unanswered, before each check; what is compared comes from the run."""
    sources = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    asked = [source for source in sources if source.startswith("prediction = ")]
    checks = [source for source in sources if "show.checked(prediction, " in source]
    assert len(asked) == len(checks) >= 1
    order = [source in checks for source in sources if source in asked or source in checks]
    assert order == [False, True] * len(asked)
    for source in asked:
        value = ast.literal_eval(ast.parse(source).body[0].value)
        assert value is None or set(value.values()) == {None}
    for source in checks:
        [_, actual] = ast.parse(source).body[-1].value.args
        assert any(isinstance(node, ast.Name) for node in ast.walk(actual)), "the answer is typed, not taken from a run"


@pytest.mark.parametrize("path", ASKING, ids=lambda path: path.name)
def test_the_committed_notebook_shows_the_unanswered_form(path):
    cells = nbformat.read(path, as_version=4).cells
    outputs = [cell.outputs for cell in cells if "show.checked(" in cell.source]
    assert all([output.text for output in each] == [f"{NONE}\n"] for each in outputs)
