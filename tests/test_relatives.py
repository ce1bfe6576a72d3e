"""The relatives of the crash: each case has its verdict, leaves nothing, and can be told by its evidence alone."""

from __future__ import annotations

import functools
import io
import json
import os
import random
import re
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from fixed import bootstrap_room
from repro.lab import cases, drill
from repro.lab.cases.stage import Stage
from repro.lab.cases.table import CASES
from repro.lab.drill import __main__ as drill_command
from repro.lab.drill.shown import Shown, shown
from repro.lab.lifted import make_request, run
from repro.lab.places import SHM
from repro.lab.refused import Refused
from repro.lab.releases import CONTAINED, LAST, NEWEST
from repro.lab.upstream.plugs import Plug
from tests import machine

OTHER_RELEASE = {"bootstrap-room", "contained"}
ERRORS = {
    "crash": ("FileNotFoundError", 2),
    "bootstrap-room": (None, None),
    "missing-barrier": ("FileNotFoundError", 2),
    "small-shm": ("tokenizer killed by SIGBUS", None),
    "failed-send": ("TypeError", None),
    "tracker": ("FileNotFoundError", 2),
    "remove-ipc": ("FileNotFoundError", 2),
    "unshared": ("FileNotFoundError", 2),
    "contained": ("RuntimeError", 2),
    "descriptors": ("OSError", 24),
}
# What has to go so that a case can no longer be told: lines of its evidence.
BREAKS = {
    "crash": "unlink|sample",
    "bootstrap-room": "room 7",
    "missing-barrier": "scheduler 1",
    "small-shm": "SIGBUS",
    "failed-send": r"psm_1$|the server lives",
    "tracker": "leaked",
    "remove-ipc": "another_program",
    "unshared": r"^-rw.* psm_1$",
    "contained": "materialize|the server lives",
    "descriptors": "Errno 24",
}
MARKS = {name: [pytest.mark.long] if case.apart else [] for name, case in CASES.items()}
for name in OTHER_RELEASE:
    MARKS[name].append(pytest.mark.network)
NAMES = [pytest.param(name, marks=MARKS[name]) for name in CASES]


@functools.cache
def made(name: str) -> cases.Found | str:
    try:
        return cases.make(name)
    except Refused as refusal:
        return str(refusal)


def found(name: str) -> cases.Found:
    """The case, made once for all tests; without what this machine does not allow."""
    if isinstance(result := made(name), str):
        pytest.skip(result)
    return result


def without(text: Shown, pattern: str) -> Shown:
    """The same, without the lines in which the pattern is found."""

    def kept(part: str) -> str:
        return "\n".join(line for line in part.splitlines() if not re.search(pattern, line))

    return replace(text, log=kept(text.log), events=kept(text.events), listing=kept(text.listing))


@pytest.mark.parametrize("name", NAMES)
def test_a_case_has_its_verdict(name):
    verdict = found(name).verdict
    assert verdict.outcome == CASES[name].outcome
    assert (verdict.error, verdict.errno) == ERRORS[name]
    assert verdict.is_the_crash() == (name == "crash")
    assert verdict.release == (NEWEST if name in OTHER_RELEASE else LAST)


@pytest.mark.parametrize("name", NAMES)
def test_a_case_says_what_is_wrong_and_leaves_nothing(name):
    result = found(name)
    assert result.faults
    assert result.verdict.leftovers.remaining == []
    assert not [event for event in result.events if event.is_still_there()]
    assert not list(Path(tempfile.gettempdir()).glob("shm-kit-case-*"))
    assert machine.children_running("repro.lab.cases.keeper") == []


@pytest.mark.parametrize("name", NAMES)
def test_a_case_survives_being_told(name):
    result = found(name)
    again = cases.Found.from_dict(json.loads(json.dumps(result.as_dict())))
    assert again.as_dict() == result.as_dict()
    assert again.picture() == result.picture()


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_is_short_and_shows_the_failure(name):
    result = found(name)
    text = result.text()
    assert len(text.splitlines()) < 20
    assert ("FileNotFoundError" in text) == any(event.errno == 2 for event in result.events)
    assert ("somebody else: unlink name 1" in text) == (name in ("tracker", "remove-ipc"))


def test_what_others_took_is_no_unlink_of_ours():
    assert found("tracker").taken_by_others() == [found("tracker").events[0].name]
    assert found("crash").taken_by_others() == []


@pytest.mark.long
def test_all_names_of_a_user_are_removed_in_a_private_place_only():
    with pytest.raises(Refused, match="all names of a user"):
        CASES["remove-ipc"].act(Stage())
    assert "/sem.another_program" in found("remove-ipc").taken_by_others()


@pytest.mark.long
def test_the_keeper_refuses_a_shm_that_is_not_the_cases_own(tmp_path):
    told = machine.command("-m", "repro.lab.cases.keeper", "remove-ipc", tmp_path, os.stat(SHM).st_dev)
    assert (told.returncode, told.stderr) == (2, "this /dev/shm is not the case's own\n")


@pytest.mark.long
def test_descriptors_run_out_and_not_the_room():
    result = found("descriptors")
    opened = [event for event in result.events if event.what == "open"]
    assert 300 < len(opened) < 512  # two descriptors each, of 1,024
    assert sum(event.what == "create" for event in result.events) == 1000


def test_a_case_that_does_not_exist():
    with pytest.raises(Refused, match="no case is called 'nothing': give one of crash, bootstrap-room"):
        cases.make("nothing")


def test_the_command_lists_the_cases():
    listed = [machine.command("-m", "repro.lab", *words).stdout for words in (["--case"], ["--case", "list"])]
    assert listed[0] == listed[1]
    assert [line.split()[0] for line in listed[0].splitlines()] == list(CASES)
    assert list(json.loads(machine.command("-m", "repro.lab", "--case", "--json").stdout)) == list(CASES)


@pytest.mark.long
def test_the_command_tells_a_case_and_draws_it(tmp_path):
    picture = tmp_path / "tracker.svg"
    told = machine.command("-m", "repro.lab", "--case", "tracker", "--picture", picture)
    assert (told.returncode, told.stderr) == (0, "")
    for words in ("verdict: crashed, FileNotFoundError", "somebody else: unlink name 1", CASES["tracker"].cause):
        assert words in told.stdout
    assert picture.read_text(encoding="utf-8").startswith("<svg")
    told = json.loads(machine.command("-m", "repro.lab", "--case", "failed-send", "--json").stdout)
    assert (told["outcome"], told["case"]["name"]) == ("refused", "failed-send")
    assert told["leftovers"]["segments"]
    assert told["listing"].startswith("-rw")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--case", "nope"], "no case is called 'nope'"),
        (["--case", "crash", "--n", "3"], "--case takes no --n"),
        (["--case", "crash", "--no-barrier"], "--case takes no --no-barrier"),
        (["--picture", "x.svg"], "--picture belongs to --case"),
        (["--case", "crash", "--picture", "/nowhere/x.svg"], "--picture"),
    ],
)
def test_bad_usage_of_cases(words, told):
    run = machine.command("-m", "repro.lab", *words)
    assert (run.returncode, run.stdout, len(run.stderr.splitlines())) == (2, "", 1)
    assert told in run.stderr


@pytest.mark.parametrize("name", NAMES)
def test_a_case_is_told_by_what_is_shown_alone(name):
    assert drill.named_by(shown(found(name))) == {name}


@pytest.mark.parametrize("name", NAMES)
def test_without_its_evidence_a_case_cannot_be_told(name):
    text = shown(found(name))
    assert drill.named_by(without(text, "no line has this")) == {name}
    assert drill.named_by(without(text, BREAKS[name])) != {name}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_shown_does_not_say_which_case_it_is(name):
    text = str(shown(found(name)))
    case = CASES[name]
    assert not [words for words in (case.cause, case.first, case.what, case.look) if words in text]
    assert not re.search(r"/(root|home|tmp|work)/|\d\.\d+ (ms|s)\b", text)


def test_the_same_seed_shows_the_same_text_again():
    seed = next(seed for seed in range(10) if drill.deal(seed, ["crash", "tracker"]).case.name == "tracker")
    first, again = (drill.deal(seed, ["crash", "tracker"]) for _ in range(2))
    assert str(first) == str(again)
    assert repr(first) == f"<Deal {seed}>"


def test_ten_seeds_in_a_row_deal_each_case_once(monkeypatch):
    monkeypatch.setattr("repro.lab.drill.dealt.making.make", lambda name: found("failed-send"))
    start = random.randrange(1000)
    assert {drill.deal(seed).case.name for seed in range(start, start + 10)} == set(CASES)
    assert drill.deal(3).case == drill.deal(13).case


def test_the_right_answer_and_every_wrong_cause():
    dealt = drill.deal(0, ["missing-barrier"])
    cause, first = drill.CAUSES.index(dealt.case.cause) + 1, drill.FIRSTS.index(dealt.case.first) + 1
    told = "\n".join(dealt.judged(cause, first))
    assert dealt.is_right(cause, first)
    assert "for       scheduler unlinks /psm_1, and scheduler 1 fails to open it" in told
    assert "against" not in told
    assert told.endswith("both are right")
    for other in set(range(1, 11)) - {cause}:
        told = "\n".join(dealt.judged(other, first))
        assert "  against   " in told.partition("but it is")[0], told
        assert dealt.case.cause in told
        assert told.endswith("at least one of the two is wrong")
    assert "that is for another cause" in "\n".join(dealt.judged(cause, first % 10 + 1))


def test_causes_and_actions_are_ten_each_and_in_another_order():
    assert len(set(drill.CAUSES)) == len(set(drill.FIRSTS)) == 10
    same = [case for case in CASES.values() if drill.CAUSES.index(case.cause) == drill.FIRSTS.index(case.first)]
    assert len(same) <= 2


@pytest.mark.long
@pytest.mark.parametrize(
    ("answers", "status", "told"),
    [
        ("5\n{first}\n", 0, "both are right"),
        ("5\n{wrong}\n", 1, "at least one of the two is wrong"),
        ("", 0, "the cause, a number: \n"),
        ("5\n", 0, "the first thing to do, a number: \n"),
    ],
)
def test_the_drill_at_a_terminal(answers, status, told):
    first = drill.FIRSTS.index(CASES["failed-send"].first) + 1
    typed = answers.format(first=first, wrong=first % 10 + 1)
    run = machine.command("-m", "repro.lab.drill", "--seed", "1", "--case", "failed-send", typed=typed)
    assert (run.returncode, run.stderr) == (status, "")
    assert told in run.stdout
    assert "tokenizer  create  /psm_1  request" in run.stdout


def test_at_a_terminal_a_wrong_number_is_asked_for_again(monkeypatch, capsys):
    terminal = io.StringIO("\nbanana\n11\n3\n")
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stdin", terminal)
    assert drill_command.typed("the cause", drill.CAUSES) == 3
    told = capsys.readouterr().out
    assert told.count("the cause, a number: ") == 4
    assert "'banana' is no answer: give a number from 1 to 10" in told


@pytest.mark.parametrize(
    ("words", "typed", "told"),
    [
        (["--seed", "x"], "", "'x'"),
        (["--seed", "-1"], "", "-1"),
        (["--case", "nope"], "", "no case is called 'nope'"),
        (["--case", "failed-send", "--answer", "11", "1"], "", "'11' is no answer: give a number from 1 to 10"),
        (["--case", "failed-send", "--answer", "1"], "", "--answer"),
        (["--case", "failed-send"], "a banana\n", "'a banana' is no answer"),
    ],
)
def test_bad_input_of_the_drill(words, typed, told):
    run = machine.command("-m", "repro.lab.drill", *words, typed=typed)
    assert (run.returncode, len(run.stderr.splitlines())) == (2, 1)
    assert told in run.stderr


@pytest.mark.network
def test_with_its_fix_each_send_has_a_room_of_its_own():
    request = make_request("text")
    request.bootstrap_room = 7
    result = run(request, n=3, release=NEWEST, fix=Plug(hooks=bootstrap_room.HOOKS))
    assert len({send.room for send in result.sends}) == 4
    assert result.sends[0].room == 7
    assert not result.faults()


def test_the_failure_is_contained_where_the_table_says_so():
    assert CONTAINED in CASES["contained"].cause
