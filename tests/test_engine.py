"""The released engine and the fixed one, side by side, on the same cases."""

from __future__ import annotations

import json

import pytest

from repro.lab.verdict import Verdict
from tests import scenes

FAIL_TO_PASS = ["n = 2", "n = 8", "two prompts, n = 2"]
PASS_TO_PASS = ["n = 1", "another image", "text only, n = 4"]


def expected_answers(case: str) -> int:
    colours, n = scenes.CASES[case]
    return max(1, len(colours)) * n


@pytest.mark.parametrize("case", FAIL_TO_PASS + PASS_TO_PASS)
def test_fixed_answers(fixed_engine, case):
    assert fixed_engine.outcome == "survived"
    assert len(fixed_engine.answers[case]) == expected_answers(case)


def test_repro_crashes_n_2(repro_run):
    assert repro_run.returncode == 0, repro_run.stdout + repro_run.stderr
    assert "verdict    crashed, as promised" in repro_run.stdout


def test_repro_crashes_n_8(repro_json):
    verdict, run, _ = repro_json
    assert run.returncode == 0
    assert verdict["outcome"] == "crashed"
    assert verdict["n"] == 8


def test_repro_crashes_two_prompts(repro_two_prompts):
    assert repro_two_prompts.outcome == "crashed"
    assert repro_two_prompts.is_the_crash()


@pytest.mark.parametrize("case", PASS_TO_PASS)
def test_repro_answers(repro_two_prompts, fixed_engine, case):
    answered = {event["case"]: event["answers"] for event in repro_two_prompts.events if event["what"] == "case"}
    assert len(answered[case]) == expected_answers(case)
    assert answered[case] == fixed_engine.answers[case]


def test_the_pixels_arrive_for_every_sample(fixed_engine):
    """At temperature 0 every sample says what the single answer to the same image says, and not what the answer to
    another image says."""
    crimson, navy = fixed_engine.answers["n = 1"][0], fixed_engine.answers["another image"][0]
    assert crimson != navy
    assert set(fixed_engine.answers["n = 2"]) == {crimson}
    assert set(fixed_engine.answers["n = 8"]) == {crimson}
    assert fixed_engine.answers["two prompts, n = 2"] == [crimson, crimson, navy, navy]


def test_the_answers_are_words(fixed_engine):
    from repro.lab import vlm

    assert all(word in vlm.WORDS for word in fixed_engine.answers["n = 1"][0].split())


def test_fixed_run(fixed_run):
    assert fixed_run.returncode == 0, fixed_run.stdout + fixed_run.stderr
    assert "verdict    survived, as promised" in fixed_run.stdout
    assert fixed_run.stderr == ""


def test_json_verdict_is_complete(repro_json):
    """One object on stdout with all that was promised of it, and this crash is #24231."""
    verdict, run, log = repro_json
    assert run.stderr == ""
    assert verdict["error"] == "FileNotFoundError"
    assert verdict["errno"] == 2
    assert verdict["where"] == "mm_utils.py:1564 __setstate__"
    assert verdict["segment"] in log
    assert verdict["answers"] is None
    assert verdict["release"] == "0.5.12.post1"
    assert (verdict["device"], verdict["model"]) == ("cpu", "tiny")
    assert 0 < verdict["seconds"]["boot"] < verdict["seconds"]["total"]
    assert verdict["seconds"]["generate"] is not None
    assert set(verdict["leftovers"]) == {"segments", "processes", "remaining"}
    assert verdict["leftovers"]["remaining"] == []
    assert verdict["leftovers"]["processes"] == []
    assert Verdict(**verdict).is_the_crash()
    assert verdict["died"] == ["tokenizer killed by SIGKILL", "detokenizer gone with it", "scheduler gone with it"]


def test_frames_are_the_schedulers_own(repro_json):
    verdict, _, log = repro_json
    assert verdict["frames"]
    assert all(frame in log for frame in verdict["frames"])
    assert any("in __setstate__" in frame for frame in verdict["frames"])


def test_every_send_of_the_fixed_engine_has_a_name_of_its_own(fixed_engine):
    """Ownership, not "no crash": each created name is opened once and unlinked once."""
    lives: dict[str, list[str]] = {}
    for event in fixed_engine.events:
        if event["what"] not in ("case", "semaphore"):
            lives.setdefault(event["name"], []).append(event["what"])
    assert all(life == ["create", "open", "unlink"] for life in lives.values()), json.dumps(lives, indent=1)
    sends = sum(len(scenes.CASES[case][0]) * (n + (n > 1)) for case, (_, n) in scenes.CASES.items())
    assert len(lives) == sends
