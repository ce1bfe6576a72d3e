"""The released engine and the fixed one, side by side, on the same cases."""

from __future__ import annotations

import json

import pytest

from repro.lab.evidence.verdict import Verdict
from tests import scenes

FAIL_TO_PASS = ["n = 2", "n = 3", "n = 8", "two prompts, n = 2"]
PASS_TO_PASS = ["n = 1", "another image", "text only, n = 4"]


def expected_answers(case: str) -> int:
    colours, n = scenes.CASES[case]
    return max(1, len(colours)) * n


@pytest.mark.fail_to_pass
@pytest.mark.parametrize("case", FAIL_TO_PASS)
def test_as_released_the_engine_dies_and_with_the_fix_it_answers(case, released, fixed_engine):
    died = released(case)
    assert died.is_the_crash(), died
    assert [event["case"] for event in died.events if event["what"] == "case"] == PASS_TO_PASS
    assert fixed_engine.outcome == "survived"
    assert len(fixed_engine.answers[case]) == expected_answers(case)


@pytest.mark.pass_to_pass
@pytest.mark.parametrize("case", PASS_TO_PASS)
def test_as_released_and_with_the_fix_the_engine_gives_the_same_answers(case, released, fixed_engine):
    answers = answers_of(released("n = 2"))
    assert len(answers[case]) == expected_answers(case)
    assert answers[case] == fixed_engine.answers[case]


def test_the_processes_of_sglang_started_as_sglang_starts_them_come_to_the_same(spawned, released):
    """Forked from one import, or spawned: the same verdict, the same events, the same answers."""
    forked = released("n = 2")
    assert (forked.start_method, spawned.start_method) == ("fork", "spawn")
    assert spawned.is_the_crash()
    for what in ("outcome", "error", "errno", "where", "died"):
        assert getattr(forked, what) == getattr(spawned, what), what
    assert lives_of(forked)[-1] == lives_of(spawned)[-1] == CRASH
    assert answers_of(forked)["n = 1"] == answers_of(spawned)["n = 1"]


def test_the_engine_listens_on_loopback_only_however_its_processes_are_started(spawned, released):
    for verdict in (released("n = 2"), spawned):
        (listens,) = (event for event in verdict.events if event["what"] == "listens")
        assert {address for address, _, _ in listens["sockets"]} == {"127.0.0.1"}


CRASH = [
    ("tokenizer", "create", "mm_utils.py:1540 __init__"),
    ("scheduler", "open", "mm_utils.py:1564 __setstate__"),
    ("scheduler", "unlink", "mm_utils.py:1576 materialize"),
    ("scheduler", "open failed", "mm_utils.py:1564 __setstate__"),
]


def lives_of(verdict: Verdict) -> list[list[tuple[str, str, str]]]:
    """The events of each segment's name: role, event, place."""
    events = [event for event in verdict.events if "name" in event and event["what"] != "semaphore"]
    names = dict.fromkeys(event["name"] for event in events)
    return [
        [(event["role"], event["what"], event["where"]) for event in events if event["name"] == name] for name in names
    ]


def answers_of(verdict: Verdict) -> dict[str, list[str]]:
    return {event["case"]: event["answers"] for event in verdict.events if event["what"] == "case"}


def test_the_pixels_arrive_for_every_sample(fixed_engine):
    """At temperature 0, every sample equals the single answer to the same image, and differs from the answer to another
    image."""
    crimson, navy = fixed_engine.answers["n = 1"][0], fixed_engine.answers["another image"][0]
    assert crimson != navy
    assert set(fixed_engine.answers["n = 2"]) == {crimson}
    assert set(fixed_engine.answers["n = 8"]) == {crimson}
    assert fixed_engine.answers["two prompts, n = 2"] == [crimson, crimson, navy, navy]


def test_the_answers_say_what_the_pictures_show(fixed_engine):
    said = {case: [text.strip() for text in answers] for case, answers in fixed_engine.answers.items()}
    assert said["n = 1"] == ["a crimson square"]
    assert said["another image"] == ["a navy square"]
    assert set(said["text only, n = 4"]) == {"nothing"}


def test_the_demo_keeps_both_promises(demo):
    run, told = demo
    assert run.returncode == 0, run.stdout + run.stderr
    assert "verdict    crashed, as promised" in told["repro"]
    assert "verdict    survived, as promised" in told["fixed"]


def test_json_verdict_is_complete(repro_json):
    """stdout has one object with every promised key, and it says that this crash is #24231."""
    verdict, run, log = repro_json
    assert run.returncode == 0
    assert len(run.stderr.splitlines()) == 1  # which device, and why
    assert (verdict["outcome"], verdict["n"], verdict["start_method"]) == ("crashed", 8, "fork")
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
        if "name" in event and event["what"] != "semaphore":
            lives.setdefault(event["name"], []).append(event["what"])
    assert all(life == ["create", "open", "unlink"] for life in lives.values()), json.dumps(lives, indent=1)
    sends = sum(len(scenes.CASES[case][0]) * (n + (n > 1)) for case, (_, n) in scenes.CASES.items())
    assert len(lives) == sends
