"""The trace for Perfetto: every event on the track of its process, every name with its life."""

from __future__ import annotations

import json

import pytest

from repro.lab.evidence.event import Event
from repro.lab.pictures.trace import trace
from tests import machine


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    """The trace of a crash, from the command, and the verdict of the same run."""
    file = tmp_path_factory.mktemp("trace") / "crash.json"
    run = machine.command("-m", "repro.lab", "--trace", file, "--json")
    assert run.returncode == 0, run.stderr
    return json.loads(file.read_text(encoding="utf-8"))["traceEvents"], json.loads(run.stdout)["events"]


def test_every_event_is_a_mark_of_its_process(traced):
    marks = [entry for entry in traced[0] if entry["ph"] == "i"]
    assert [(mark["pid"], mark["name"], mark["args"]["name"]) for mark in marks] == [
        (event["pid"], event["what"], event["name"]) for event in traced[1]
    ]
    assert marks[-1]["name"] == "open failed"
    assert marks[-1]["args"]["errno"] == 2


def test_the_tracks_are_the_real_processes(traced):
    tracks = {entry["pid"]: entry["args"]["name"] for entry in traced[0] if entry["ph"] == "M"}
    assert tracks == {event["pid"]: event["role"] for event in traced[1]}


def test_a_name_lives_from_its_creation_to_its_unlink():
    acts = [
        (1.0, "create", "/a"),
        (1.5, "open", "/a"),
        (2.0, "unlink", "/a"),
        (3.0, "create", "/b"),
        (4.0, "open", "/b"),
    ]
    told = trace([Event(at, 7, "tokenizer", what, name) for at, what, name in acts])["traceEvents"]
    bars = [(entry["name"], entry["ph"], entry["ts"]) for entry in told if entry["ph"] in "be"]
    assert bars == [("/a", "b", 0), ("/a", "e", 1e6), ("/b", "b", 2e6), ("/b", "e", 3e6)]


def test_a_run_without_names_is_an_empty_trace():
    assert trace([])["traceEvents"] == []


def test_a_file_that_cannot_be_written_is_refused_before_the_run():
    run = machine.command("-m", "repro.lab", "--trace", "missing/crash.json")
    assert (run.returncode, run.stdout) == (2, "")
    assert "missing/crash.json" in run.stderr
