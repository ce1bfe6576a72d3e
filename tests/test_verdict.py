"""A verdict that took another death for this one would be worse than none."""

from __future__ import annotations

import dataclasses

import pytest

from repro.lab.engine import report
from repro.lab.evidence import last_words
from repro.lab.evidence.verdict import Verdict

NAME = "/psm_1a2b3c4d"
LOG = f"""[2026-05-24 10:00:00] Load weight end.
Traceback (most recent call last):
  File "/somewhere/before.py", line 1, in before
    1 / 0
ZeroDivisionError: division by zero
[2026-05-24 10:00:01] Scheduler hit an exception: Traceback (most recent call last):
  File "/env/sglang/srt/managers/mm_utils.py", line 1564, in __setstate__
    the source line
    ^^^^^^^^^^^^^^^
  File "/lib/multiprocessing/shared_memory.py", line 104, in __init__
    the source line
FileNotFoundError: [Errno 2] No such file or directory: '{NAME}'

[2026-05-24 10:00:02] SIGQUIT received.
Traceback (most recent call last):
  File "/somewhere/after.py", line 1, in after
KeyboardInterrupt
"""
EVENTS = [{"name": NAME, "what": what} for what in ("create", "open", "unlink", "open failed")]
CRASH = Verdict(
    "crashed",
    n=2,
    error="FileNotFoundError",
    errno=2,
    segment=NAME,
    where="mm_utils.py:1564 __setstate__",
    events=EVENTS,
)


def test_last_words_are_those_of_the_process_that_hit_an_exception():
    words = last_words.read(LOG)
    assert words.error == "FileNotFoundError"
    assert words.errno == 2
    assert words.segment == NAME
    assert words.where == "mm_utils.py:1564 __setstate__"
    assert [frame.function for frame in words.frames] == ["__setstate__", "__init__"]
    assert all(frame.text in LOG for frame in words.frames)


@pytest.mark.parametrize("log", ["", "all is well\n", "Traceback (most recent call last):\n", LOG[:350]])
def test_no_last_words(log):
    assert last_words.read(log) is None


def test_an_exception_without_a_message():
    words = last_words.read('Traceback (most recent call last):\n  File "a.py", line 1, in f\nMemoryError\n')
    assert (words.error, words.message, words.errno, words.segment) == ("MemoryError", "", None, None)
    assert words.where == "a.py:1 f"


def test_the_crash_keeps_its_promise_and_no_other():
    assert CRASH.keeps("crashed")
    assert not CRASH.keeps("survived")


@pytest.mark.parametrize(
    "change",
    [
        {"outcome": "hung"},
        {"outcome": "survived", "answers": ["a", "b"]},
        {"error": "PermissionError"},
        {"error": "OSError"},
        {"errno": 13},
        {"errno": None},
        {"where": "mm_utils.py:1576 materialize"},
        {"where": None},
        {"segment": None},
        {"events": []},
        {"events": EVENTS[3:]},  # a name that never existed
        {"events": [EVENTS[0], EVENTS[3]]},  # a name that was not unlinked
        {"events": [*EVENTS[:2], EVENTS[3]]},
    ],
)
def test_another_death_is_not_the_crash(change):
    assert not dataclasses.replace(CRASH, **change).keeps("crashed")


def test_survived_promises_n_answers():
    assert Verdict("survived", n=2, answers=["a", "b"]).keeps("survived")
    assert not Verdict("survived", n=2, answers=["a"]).keeps("survived")
    assert not Verdict("hung", n=2).keeps("survived")


def test_a_refused_run_says_why():
    told = report.text(Verdict("refused", n=2, release="0.5.12.post1", message="no image at x"), "crashed")
    assert "happened   it could not be run: no image at x" in told
    assert "None" not in told.partition("happened")[2]


def test_one_answer_is_told_in_the_singular():
    told = report.text(Verdict("survived", n=1, release="0.5.12.post1", answers=["a"]), "survived")
    assert "promised   1 answer\n" in told
    assert "happened   1 answer\n" in told


@pytest.mark.parametrize(("said", "whose"), [("Scheduler hit an exception: ", "scheduler"), ("", "tokenizer")])
def test_last_frames_are_told_of_the_process_that_they_are_of(said, whose):
    verdict = Verdict("crashed", n=2, release="0.5.12.post1")
    log = f'{said}Traceback (most recent call last):\n  File "a.py", line 1, in f\nKeyError\n'
    verdict.died_of(last_words.read(log))
    assert f"the {whose}'s last frames" in report.text(verdict, "crashed")
