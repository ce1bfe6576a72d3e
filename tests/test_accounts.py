"""The accounts of a run: the recorder's, the kernel's, and the cartoon's. Many runs leave nothing."""

from __future__ import annotations

import gc
import json
import os

import psutil
import pytest

from fixed.detach import detach
from repro.lab.lifted import make_request, run
from tests import machine


@pytest.mark.parametrize(("side", "fix"), [("repro", None), ("fixed", detach)])
def test_minimal_does_what_the_lab_does(side, fix):
    """The cartoon's sequence of events is the lab's, with what is done to the memory left out. (The fixed lab's
    processes overlap, so each name's life is compared.)"""
    code = f"import json\nfrom {side}.minimal import run\nif __name__ == '__main__': print(json.dumps(run()))"
    cartoon = [tuple(event) for event in json.loads(machine.command("-c", code).stdout)]
    result = run(n=2, fix=fix)
    number = {name: f"name {i}" for i, name in enumerate(result.names, start=1)}
    events = [(event.role, event.what, number[event.name]) for event in result.events]
    lab = [event for event in events if event[1] not in ("map", "close")]
    by_name = (lambda events: sorted(events, key=lambda event: event[2])) if fix else list
    assert by_name(cartoon) == by_name(lab)


@pytest.mark.parametrize(("n", "fix"), [(1, None), (2, None), (2, detach), (8, detach)])
def test_the_kernel_saw_what_the_recorder_wrote(n, fix):
    result = run(n=n, fix=fix)
    for name in result.names:
        written = [event.what for event in result.events if event.name == name]
        seen = [seen.what for seen in result.kernel if seen.name == name]
        assert seen.count("create") == written.count("create") == 1
        assert seen.count("open") == written.count("create") + written.count("open")  # creating opens, too
        assert seen.count("unlink") == written.count("unlink")
        assert seen[-1] == "unlink"
    assert {seen.name for seen in result.kernel} == set(result.names)


def test_the_order_of_events_is_total():
    result = run(n=4, fix=detach)
    assert [event.at for event in result.events] == sorted(event.at for event in result.events)
    for name in result.names:
        life = [(event.role, event.what) for event in result.events if event.name == name]
        assert life == [
            ("tokenizer", "create"),
            ("tokenizer", "map"),
            ("tokenizer", "close"),
            ("scheduler", "open"),
            ("scheduler", "map"),
            ("scheduler", "close"),
            ("scheduler", "unlink"),
        ]
        assert len({event.send for event in result.events if event.name == name}) == 1


@pytest.mark.long
def test_two_hundred_runs_leave_nothing():
    for _ in range(2):
        run(n=2), run(n=2, fix=detach)
    gc.collect()
    descriptors, children = len(os.listdir("/proc/self/fd")), _children()
    for number in range(200):
        fix = detach if number % 2 else None
        outcome = run(make_request(shape=(4, 8)), n=2, fix=fix).verdict
        assert outcome.outcome == "survived" if fix else outcome.is_the_crash(), number
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 1
    assert _children() <= children + 1  # the spare scheduler


def _children() -> int:
    return len(psutil.Process().children(recursive=True))
