"""`python -m repro.lab` and `python -m fixed.lab`, from a shell."""

from __future__ import annotations

import json

import pytest

from repro.lab.trigger_table import Measured, Row
from tests import machine


def test_one_experiment_from_a_shell():
    told = machine.command("-m", "repro.lab", "--json")
    verdict = json.loads(told.stdout)
    assert (told.returncode, told.stderr) == (0, "")
    assert (verdict["outcome"], verdict["errno"], verdict["n"]) == ("crashed", 2, 2)
    assert len(verdict["sends"]) == 3


def test_a_fix_from_a_shell():
    told = machine.command("-m", "fixed.lab", "--n", 3, "--fix", "detach", "--events")
    assert told.returncode == 0
    assert "faults: none" in told.stdout
    assert told.stdout.count(" unlink ") == 4


def test_explain_names_what_is_lifted_and_what_is_not():
    told = machine.command("-m", "repro.lab", "--explain").stdout
    assert "TokenizerManager._handle_batch_request" in told
    assert "mm_utils.py:1526  ShmPointerMMData" in told
    assert "NOT sglang" in told
    assert "no model" in told


@pytest.mark.parametrize(
    "words", [["--n", "0"], ["--release", "0.5.99"], ["--release", "x"], ["--fix", "nothing"], ["--feature", "smell"]]
)
def test_bad_usage_of_the_lab(words):
    told = machine.command("-m", "repro.lab", *words)
    assert (told.returncode, told.stdout, len(told.stderr.splitlines())) == (2, "", 1)
    assert words[1] in told.stderr


@pytest.mark.network
def test_the_trigger_table_without_the_engine_is_as_known():
    told = machine.command("-m", "repro.lab", "--when", "--quick", "--json")
    rows = json.loads(told.stdout)
    assert told.returncode == 0, [row for row in rows if row["differs"]]
    assert len([row for row in rows if row["outcome"] != "not run"]) >= 18


def test_a_row_that_differs_is_marked():
    assert Measured(Row("c", "survived", lambda: None), "crashed", "").differs
    assert not Measured(Row("c", "crashed", None, why="no GPU"), "not run", "no GPU").differs
