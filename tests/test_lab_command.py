"""`python -m repro.lab` and `python -m fixed.lab`, from a shell."""

from __future__ import annotations

import json
import os
import re

import pytest

from repro.lab import lifted, trigger_table
from repro.lab.evidence.verdict import Verdict
from repro.lab.lifted import replay
from repro.lab.releases import AFFECTED, ALL, CONTAINED, FIXED
from repro.lab.trigger_table import Measured, Row
from repro.lab.upstream import expansion, source
from tests import machine


def test_one_experiment_from_a_shell():
    told = machine.command("-m", "repro.lab", "--json")
    verdict = json.loads(told.stdout)
    assert (told.returncode, told.stderr) == (0, "")
    assert (verdict["outcome"], verdict["errno"], verdict["n"]) == ("crashed", 2, 2)
    assert len(verdict["sends"]) == 3


def test_warm_segments_from_a_shell():
    told = machine.command("-m", "fixed.lab", "--n", 2, "--fix", "warm_segments", "--json")
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["outcome"] == "survived"


def test_a_fix_from_a_shell():
    told = machine.command("-m", "fixed.lab", "--n", 3, "--fix", "detach", "--events")
    assert told.returncode == 0
    assert "faults: none" in told.stdout
    assert told.stdout.count(" unlink ") == 4


def test_why_leads_from_the_failed_open_back_to_the_copies():
    told = machine.command("-m", "repro.lab", "--why").stdout.partition("why, the last cause first:\n")[2]
    first, *_, last = told.splitlines()
    assert re.match(
        r"  mm_utils.py:\d+ __setstate__ +the scheduler cannot open /psm_\w+, which sample 1 carries", first
    )
    sends = [line for line in told.splitlines() if line.endswith("was sent with this name")]
    assert [line.split()[2] for line in sends] == ["sample", "sample", "warm-up"]
    code = source.read(source.INSTALLED, source.TOKENIZER_MANAGER).text
    copies = [int(line) for line in re.findall(r"tokenizer_manager.py:(\d+) \S+ +the request was copied", told)]
    assert sorted(copies) == sorted(expansion.copy_lines(code))
    assert f":{min(copies)} " in last


def test_why_has_nothing_to_say_of_a_run_that_is_well():
    told = machine.command("-m", "repro.lab", "--why", "--n", 1)
    assert (told.returncode, told.stdout, len(told.stderr.splitlines())) == (2, "", 1)


@pytest.mark.long
@pytest.mark.network
def test_bisect_tries_every_release():
    told = json.loads(machine.command("-m", "repro.lab", "--bisect", "--json").stdout)
    assert [each["release"] for each in told["releases"] if each["faults"]] == list(AFFECTED)
    assert len(told["releases"]) == len(ALL)
    assert told["turns"] == [f"first bad release: {AFFECTED[0]}", f"first good release: {FIXED}"]


@pytest.mark.parametrize(
    "words", [["--fault", "fail:1", "--n", 3], ["--n", 1, "--ranks", 2, "--items", 2, "--late", 0.001]]
)
@pytest.mark.long
def test_a_token_makes_the_same_experiment_again(words):
    token = json.loads(machine.command("-m", "repro.lab", "--json", *words).stdout)["token"]
    again = machine.command("-m", "repro.lab", "--replay", token)
    assert (again.returncode, again.stdout.splitlines()[-1]) == (0, "the same events, in the same order")
    assert again.stdout.startswith(f"$ python -m repro.lab {' '.join(map(str, words))} --release ")


@pytest.mark.long
def test_another_experiment_has_other_events():
    crash = lifted.run(n=2)
    mixed = replay.token(["--n", "1"], crash.verdict.release, crash.events)  # n = 1 opens the name once
    again = machine.command("-m", "repro.lab", "--replay", mixed)
    assert again.returncode == 1
    assert "not the same events" in again.stdout


@pytest.mark.parametrize("text", ["x", "", "eNo9jd0OgyAMhV9l4boQinNuexXCBUoX"])
def test_what_is_no_token_is_told_in_one_line(text):
    told = machine.command("-m", "repro.lab", "--replay", text or "-")
    assert (told.returncode, told.stdout, len(told.stderr.splitlines())) == (2, "", 1)
    assert "is no token" in told.stderr


def test_a_trace_for_which_there_is_no_room_is_not_half_written(tmp_path):
    file = tmp_path / "trace.json"
    file.write_text("before", encoding="utf-8")
    code = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))\n"
        "from pathlib import Path; from repro.lab.machine import preflight\n"
        f"preflight.write(Path({str(file)!r}), 'x' * 1000, '--trace')"
    )
    told = machine.command("-c", code)
    assert "Refused: cannot write" in told.stderr
    assert (file.read_text(encoding="utf-8"), os.listdir(tmp_path)) == ("before", ["trace.json"])


def test_explain_names_what_is_lifted_and_what_is_not():
    told = machine.command("-m", "repro.lab", "--explain").stdout
    assert "TokenizerManager._handle_batch_request" in told
    assert "mm_utils.py:1526  ShmPointerMMData" in told
    assert "NOT sglang" in told
    assert "no model" in told
    assert "_finalize_shm_features" not in told


@pytest.mark.network
def test_explain_names_the_receiver_that_contains_a_failure():
    told = machine.command("-m", "repro.lab", "--explain", "--release", CONTAINED).stdout
    assert "request_receiver.py:257   SchedulerRequestReceiver._finalize_shm_features" in told
    assert "all_reduce" in told.partition("NOT sglang")[2]


@pytest.mark.parametrize(
    "words", [["--n", "0"], ["--release", "0.5.99"], ["--release", "x"], ["--fix", "nothing"], ["--feature", "smell"]]
)
def test_bad_usage_of_the_lab(words):
    told = machine.command("-m", "repro.lab", *words)
    assert (told.returncode, told.stdout, len(told.stderr.splitlines())) == (2, "", 1)
    assert words[1] in told.stderr


@pytest.mark.long
@pytest.mark.network
def test_the_trigger_table_without_the_engine_is_as_known():
    told = machine.command("-m", "repro.lab", "--when", "--quick", "--json")
    rows = json.loads(told.stdout)
    assert told.returncode == 0, [row for row in rows if row["differs"]]
    assert len([row for row in rows if row["outcome"] != "not run"]) >= 18


def test_a_row_that_differs_is_marked():
    assert Measured(Row("c", "survived", lambda: None), "crashed", "").differs
    assert not Measured(Row("c", "crashed", None, why="no GPU"), "not run", "no GPU").differs


def test_the_table_says_what_was_measured_and_not_what_is_known(monkeypatch):
    wrong = Row("a condition", "survived", lambda: Verdict("crashed", error="FileNotFoundError"))
    monkeypatch.setattr(trigger_table, "ROWS", (wrong,))
    (row,) = trigger_table.measured(engine=False)
    assert (row.outcome, row.differs) == ("crashed", True)
