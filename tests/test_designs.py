"""Every design through the battery; design 5 through whatever can go wrong on a machine."""

from __future__ import annotations

import ast
import contextlib
import errno
import inspect
import json
import logging
import os
import re
import resource
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fixed.clinic import exits
from fixed.clinic.battery import examine, expected
from fixed.designs import COPIES, DESIGNS, ONE_SEGMENT, PURE_WRAP, REFERENCE_COUNT, SEGMENT_PER_PICKLE
from fixed.designs import one_segment_many_names as linked
from fixed.mutants import AS_RELEASED, MUTANTS
from repro.lab.evidence.inotify import SHM
from repro.lab.evidence.verdict import Refused
from repro.lab.lifted import small_shm
from repro.lab.lifted.experiment import MOMENTS, run
from repro.lab.lifted.request import FEATURES
from tests import machine
from tests.test_lab import DTYPES, SHAPES, batch

LAST, FIXED, CONTAINED = "0.5.12.post1", "0.5.13", "0.5.23"
HOOKED = (PURE_WRAP, SEGMENT_PER_PICKLE, ONE_SEGMENT, REFERENCE_COUNT)  # what plugs in at every release


def name(design) -> str:
    return design.name


# Every design.


@pytest.mark.parametrize("design", DESIGNS, ids=name)
def test_a_design_is_right(design):
    health = examine(design)
    assert health.correct, health
    assert health.leaked["success"] == 0
    assert health.mutates == (design is SEGMENT_PER_PICKLE)
    assert health.shares == (design is REFERENCE_COUNT)


@pytest.mark.parametrize("release", [FIXED, CONTAINED])
@pytest.mark.parametrize("design", HOOKED, ids=name)
def test_a_design_is_right_on_fixed_releases_too(design, release):
    health = examine(design, release)
    assert health.correct, health
    assert not health.mutates


@pytest.mark.parametrize("release", ["0.5.10", "0.5.11", "0.5.12"])
def test_the_linked_design_is_right_on_other_affected_releases(release):
    assert examine(ONE_SEGMENT, release).correct


@pytest.mark.parametrize("mutant", [AS_RELEASED, *MUTANTS], ids=name)
def test_the_battery_catches_a_mutant(mutant):
    health = examine(mutant)
    assert health.crashed == "FileNotFoundError"
    assert not health.correct


def test_the_battery_catches_what_does_not_crash():
    """Wrong bytes, an order that is not kept, names that stay: no crash, and not right."""
    from fixed.clinic.battery import Health, _judge

    result = run(batch(2, items=2), n=3, **ONE_SEGMENT.knobs)
    assert result.verdict.answers == expected(result)
    result.verdict.answers.reverse()
    result.sends[0].intact = False
    health = Health(leaked=Counter())
    _judge(health, result)
    assert not health.correct
    assert len(health.wrong) == 2


def test_upstreams_fix_leaks_where_the_linked_one_does_not():
    theirs, ours = examine(COPIES).leaked, examine(ONE_SEGMENT).leaked
    assert theirs["failed send"] > 0
    assert set(ours.values()) == {0}
    assert examine(REFERENCE_COUNT).leaked["client gone"] > 0


def test_a_design_can_be_carried_into_a_server():
    """The hotfix takes the modules as they are: nothing of this kit, and torch only when it is needed."""
    for design in DESIGNS:
        for node in ast.walk(ast.parse(inspect.getsource(design.modules[0]))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert all(each.partition(".")[0] in {*sys.stdlib_module_names, "torch"} for each in names), names
    assert machine.command("-c", "import fixed.designs, sys; assert 'torch' not in sys.modules").returncode == 0


def test_no_design_touches_the_scheduler():
    assert not any(design.of_the_scheduler for design in DESIGNS)


# Design 5: ownership.


@pytest.mark.parametrize("release", [LAST, FIXED, CONTAINED])
def test_every_send_owns_what_it_sends(release):
    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        feature=st.sampled_from(FEATURES),
        n=st.integers(1, 5),
        prompts=st.integers(1, 3),
        items=st.integers(1, 3),
        ranks=st.sampled_from([1, 1, 2]),
        shape=SHAPES,
        dtype=DTYPES,
    )
    def check(feature, n, prompts, items, ranks, shape, dtype):
        sent = batch(prompts, feature, items=items, shape=shape, dtype=dtype)
        result = run(sent, n=n, ranks=ranks, release=release, **ONE_SEGMENT.knobs)
        assert result.faults() == []
        assert len(result.verdict.answers) == n * prompts
        assert all(send.intact for send in result.sends)
        assert not result.mutated
        if 0 in shape:  # upstream refuses them; a name for no bytes there is not, so they go inline
            assert result.names == []

    check()


def test_n_plus_1_names_lead_to_one_segment():
    result = run(n=8, **ONE_SEGMENT.knobs)
    assert len(set(result.names)) == 9
    assert len({inode for send in result.sends for inode in send.segments}) == 1
    assert [event.what for event in result.events if event.what in ("create", "link")] == ["create"] + 8 * ["link"]


def test_every_item_has_a_segment_of_its_own():
    result = run(batch(2, "list", items=2), n=3, **ONE_SEGMENT.knobs)
    assert len({inode for send in result.sends for inode in send.segments}) == 2 * 2 * 2
    assert len(set(result.names)) == 2 * 2 * 2 * 4


def test_one_sample_has_one_name():
    result = run(n=1, **ONE_SEGMENT.knobs)
    assert result.faults() == []
    assert [event.what for event in result.events if event.what in ("create", "link")] == ["create"]


def test_names_cannot_be_guessed_or_met_by_chance():
    made = {linked.new_name() for _ in range(1000)}
    assert len(made) == 1000
    assert all(re.fullmatch(rf"sgl_shm_mm_{os.getpid()}_[0-9a-f]{{16}}_[0-9a-f]{{16}}", each) for each in made)


def test_only_the_owner_may_read():
    import torch

    names = [linked.new_segment(torch.arange(9))]
    linked.add_names(names, 2)
    modes = {os.stat(SHM / each).st_mode & 0o777 for each in names}
    assert (len(names), modes, os.stat(SHM / names[0]).st_nlink) == (3, {0o600}, 3)
    linked.remove(names)


def test_a_name_that_is_taken_is_not_overwritten(monkeypatch):
    monkeypatch.setattr(linked, "new_name", lambda: "sgl_shm_mm_taken")
    (SHM / "sgl_shm_mm_taken").write_text("another's")
    try:
        result = run(n=2, **ONE_SEGMENT.knobs)
        assert result.verdict.outcome == "survived"
        assert result.names == []  # it went inline
        assert (SHM / "sgl_shm_mm_taken").read_text() == "another's"
    finally:
        (SHM / "sgl_shm_mm_taken").unlink()


# Design 5: when a batch does not end well.


@pytest.mark.parametrize("at", range(4))
@pytest.mark.parametrize("trouble", ["fail_send", "cancel"])
@pytest.mark.parametrize("release", [LAST, CONTAINED])
def test_nothing_is_left_when_a_send_fails_or_the_client_goes_away(trouble, at, release):
    result = run(batch(1, items=2), n=3, release=release, **{trouble: at}, **ONE_SEGMENT.knobs)
    assert result.verdict.error == {"fail_send": "ZMQError", "cancel": "CancelledError"}[trouble]
    assert result.verdict.leftovers.segments == []
    unlinked = Counter(event.name for event in result.events if event.what == "unlink")
    assert set(unlinked.values()) == {1}


@pytest.mark.parametrize("at", [0, 2])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_scheduler_leaves_only_what_it_was_sent(moment, at):
    """No name that was not sent; and the next run is well. What was sent is removed when the tokenizer ends."""
    result = run(n=3, die=(moment, at), **ONE_SEGMENT.knobs)
    if (moment, at) == ("create", 2):  # all names are made for the first send
        assert result.verdict.outcome == "survived"
    else:
        assert result.verdict.error == "scheduler killed by SIGKILL"
    sent = {each for send in result.sends for each in send.names if send.gone}
    assert set(result.verdict.leftovers.segments) <= sent
    assert result.verdict.leftovers.remaining == []
    assert run(n=3, **ONE_SEGMENT.knobs).faults() == []


@pytest.mark.long
def test_nothing_is_left_when_the_tokenizer_is_killed_after_its_scheduler():
    """By SIGKILL, alone: the resource tracker knows every name. (The other ends are columns of the clinic's table.)"""
    assert exits.leaked("by_sigkill", [ONE_SEGMENT]) == {ONE_SEGMENT.name: 0}


def test_the_client_may_stop_listening():
    """An answer is taken, and then the generator is closed: the batch is over."""
    import asyncio

    import torch

    async def handler(manager, obj):
        linked._taken.set([])
        for _ in range(3):
            pointer = type("Pointer", (), {})()
            linked.name_instead_of_segment(None, pointer, tensor)
            yield pointer.shm_name

    async def listen():
        answers = linked.handle_batch_request(handler, None, obj)
        first = await anext(answers)
        await answers.aclose()
        return first

    tensor, obj = torch.arange(9), type("Asked", (), {"parallel_sample_num": 3})()
    before = machine.names()
    first = asyncio.run(listen())
    assert machine.names() - before == {first}  # that one is the consumer's
    linked.remove([first])


# Design 5: when the machine is short of something.


@contextlib.contextmanager
def links(failing_at: int, number: int, monkeypatch):
    """`os.link` fails at that call with that errno, and from then on."""
    real, calls = os.link, []

    def link(source, target, **named):
        calls.append(target)
        if len(calls) >= failing_at:
            raise OSError(number, os.strerror(number), source, None, target)
        real(source, target, **named)

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", link)
        patch.setattr(linked.Links, "work", True)
        patch.setattr(linked, "_said", set())
        yield calls


@pytest.mark.parametrize("failing_at", [1, 3, 7])
def test_a_link_that_fails_half_way_leaves_nothing_and_everybody_is_answered(failing_at, monkeypatch, caplog):
    with links(failing_at, errno.ENOSPC, monkeypatch), caplog.at_level(logging.WARNING):
        result = run(batch(2, items=2), n=2, **ONE_SEGMENT.knobs)
    assert result.faults() == []
    assert len(result.verdict.answers) == 4
    assert [record.message for record in caplog.records if "sent inline" in record.message]


def test_names_that_cannot_all_be_made_are_given_back_at_once(monkeypatch):
    """Not only when the batch is over: there was too little room already."""
    import torch

    names = [linked.new_segment(torch.arange(9))]
    made = set(names)
    with links(3, errno.ENOSPC, monkeypatch) as calls, pytest.raises(OSError, match="No space left"):
        linked.add_names(names, 5)
    made |= {path.rpartition("/")[2] for path in calls}
    assert names == []
    assert not made & machine.names()


@pytest.mark.parametrize("number", linked.CANNOT_LINK)
def test_where_links_cannot_be_made_every_send_gets_a_segment_and_it_says_so_once(number, monkeypatch, caplog):
    with links(1, number, monkeypatch) as calls, caplog.at_level(logging.WARNING):
        for _ in range(3):
            result = run(batch(2), n=3, **ONE_SEGMENT.knobs)
            assert result.faults() == []
            assert len({inode for send in result.sends for inode in send.segments}) == len(result.sends)
    assert len(calls) == 1
    assert [record.message for record in caplog.records if "own" in record.message and "links" in record.message] != []
    assert len(caplog.records) == 1


def test_as_many_names_as_a_segment_can_have(monkeypatch):
    with links(3, errno.EMLINK, monkeypatch):
        result = run(n=5, **ONE_SEGMENT.knobs)
    assert result.faults() == []
    assert len({inode for send in result.sends for inode in send.segments}) > 1


def test_without_a_dev_shm_sglangs_own_code_makes_the_segments(monkeypatch):
    monkeypatch.setattr(linked, "NAMES_ARE_FILES", False)
    result = run(n=3, **ONE_SEGMENT.knobs)
    assert result.faults() == []
    assert all(each.startswith("/psm_") for each in result.names)
    assert len(result.names) == 4
    assert run(n=3, fail_send=2, **ONE_SEGMENT.knobs).verdict.leftovers.segments == []


def test_no_descriptor_left(monkeypatch):
    """EMFILE, from the kernel: while the segment is made, this process may open no file."""
    real = linked.SharedMemory

    def with_no_descriptor(*arguments, **named):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        taken = max(map(int, os.listdir("/proc/self/fd")))
        fillers = [os.dup(0) for _ in range(taken - len(os.listdir("/proc/self/fd")) + 2)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(fillers, default=taken) + 1, hard))
        try:
            return real(*arguments, **named)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for filler in fillers:
                os.close(filler)

    monkeypatch.setattr(linked, "SharedMemory", with_no_descriptor)
    monkeypatch.setattr(linked, "_said", set())
    result = run(n=3, **ONE_SEGMENT.knobs)
    assert [event.errno for event in result.events if event.what == "create failed"] == 4 * [errno.EMFILE]
    assert result.faults() == []
    assert len(result.verdict.answers) == 3


@pytest.mark.long
def test_no_room_left():
    """ENOSPC, from the kernel: a feature that is larger than all of /dev/shm goes inline. (Upstream's fix dies of
    SIGBUS where there is too little room: a column of the clinic's table.)"""
    try:
        verdict = small_shm.lab(["--n", "2", "--size", "672", "--fix", ONE_SEGMENT.name], mebibytes=8)
    except Refused as refusal:
        pytest.skip(str(refusal))
    assert (verdict.outcome, len(verdict.answers)) == ("survived", 2)
    assert verdict.leftovers.segments == []


@pytest.mark.long
def test_a_thousand_requests_one_in_ten_killed():
    """n = 8, sizes mixed, with no help from the lab's sweep: nothing wrong, nothing left, memory flat."""
    before = machine.names()
    with ThreadPoolExecutor(2) as two:  # two tokenizers with a scheduler each
        ended = list(two.map(lambda seed: machine.command("-m", "tests.endurance", 500, seed), (1, 2)))
    assert [each.returncode for each in ended] == [0, 0], [each.stderr[-2000:] for each in ended]
    for told in (json.loads(each.stdout) for each in ended):
        assert (told["requests"], told["killed"]) == (500, 50)
        assert told["wrong"] == []
        assert told["descriptors"][1] <= told["descriptors"][0] + 2
        assert told["megabytes"][1] <= told["megabytes"][0] * 1.1 + 10
    assert machine.left_since(before) == set()
