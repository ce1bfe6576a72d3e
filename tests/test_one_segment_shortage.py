"""One segment, many names: when the machine lacks room, descriptors or links; and a thousand requests."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import resource
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from fixed.designs import ONE_SEGMENT, shm_names
from fixed.designs import one_segment_many_names as linked
from repro.lab.lifted import Fault, run, small_shm
from repro.lab.refused import Refused
from tests import machine
from tests.batches import batch


@contextlib.contextmanager
def links(failing_at: int, number: int, monkeypatch, *, once: bool = False):
    """`os.link` fails at this call with this errno: from this call on, or only once."""
    real, calls = os.link, []

    def link(source, target, **named):
        calls.append(target)
        if len(calls) == failing_at or (len(calls) > failing_at and not once):
            raise OSError(number, os.strerror(number), source, None, target)
        real(source, target, **named)

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", link)
        patch.setattr(linked.Links, "work", True)
        patch.setattr(linked, "said", set())
        yield calls


@pytest.mark.parametrize("number", linked.NO_MORE_LINKS)
@pytest.mark.parametrize("failing_at", [1, 3, 7])
def test_a_link_that_fails_half_way_leaves_nothing_and_everybody_is_answered(failing_at, number, monkeypatch, caplog):
    with links(failing_at, number, monkeypatch), caplog.at_level(logging.WARNING):
        result = run(batch(2, items=2), n=2, fix=ONE_SEGMENT)
    assert result.faults() == []
    assert len(result.verdict.answers) == 4
    assert all(send.names for send in result.sends)  # nothing went inline: what was made was used
    assert len(caplog.records) == 1


def test_names_that_were_made_before_the_room_was_used_up_are_kept(monkeypatch):
    """The pixels are not written again for a send that can use one of these names."""
    with links(4, errno.ENOSPC, monkeypatch):
        result = run(n=9, fix=ONE_SEGMENT)
    assert result.faults() == []
    assert sum(event.what == "link" for event in result.events) == 3
    assert sum(event.what == "create" for event in result.events) == 7  # 4 sends share the first, 6 have their own


def test_a_second_segment_gets_as_many_names_as_sends_are_left(monkeypatch):
    with links(4, errno.ENOSPC, monkeypatch, once=True):
        result = run(n=9, fix=ONE_SEGMENT)
    assert result.faults() == []
    made = [event.what for event in result.events if event.what in ("create", "link") and event.role == "tokenizer"]
    assert made == ["create", *3 * ["link"], "create", *5 * ["link"]]


def test_a_segment_that_cannot_be_filled_is_not_left(monkeypatch):
    real, before = os.write, machine.names()

    def write(descriptor, content):
        if isinstance(content, bytes):  # of the tracker's pipe
            return real(descriptor, content)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(linked.os, "write", write)
    with pytest.raises(OSError, match="No space left"):
        linked.new_segment(torch.arange(9))
    assert machine.names() == before


@pytest.mark.parametrize("failing_at", [2, 3])
def test_a_segment_that_cannot_be_made_for_the_second_item_leaves_no_name_of_the_first(failing_at, monkeypatch):
    """The whole send goes inline, so no consumer would unlink a name that was made for it."""
    real, calls = linked.created, []

    def created(name, size):
        calls.append(name)
        if len(calls) >= failing_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
        return real(name, size)

    monkeypatch.setattr(linked, "created", created)
    result = run(batch(2, items=2), n=2, fix=ONE_SEGMENT)
    assert result.faults() == []
    assert {send.label for send in result.sends if not send.names} > {"warm-up b"}


def test_any_other_error_gives_all_names_back_at_once(monkeypatch):
    names = [linked.new_segment(torch.arange(9))]
    made = set(names)
    with links(3, errno.EIO, monkeypatch) as calls, pytest.raises(OSError, match="Input/output"):
        linked.add_names(names, 5)
    made |= {path.rpartition("/")[2] for path in calls}
    assert names == []
    assert not made & machine.names()


@pytest.mark.parametrize("number", linked.CANNOT_LINK)
def test_where_links_cannot_be_made_every_send_gets_a_segment_and_it_says_so_once(number, monkeypatch, caplog):
    with links(1, number, monkeypatch) as calls, caplog.at_level(logging.WARNING):
        for _ in range(3):
            result = run(batch(2), n=3, fix=ONE_SEGMENT)
            assert result.faults() == []
            assert len({inode for send in result.sends for inode in send.segments}) == len(result.sends)
    assert len(calls) == 1
    assert [record.message for record in caplog.records if "own" in record.message and "links" in record.message] != []
    assert len(caplog.records) == 1


def test_another_reason_is_said_too(monkeypatch, caplog):
    monkeypatch.setattr(linked, "said", set())
    with caplog.at_level(logging.WARNING):
        for number, name in ((errno.ENOSPC, "/a"), (errno.EMFILE, "/b"), (errno.ENOSPC, "/c")):
            linked.say_once("features are sent inline", OSError(number, os.strerror(number), name))
    assert [record.message.count("/a") + 2 * record.message.count("/b") for record in caplog.records] == [1, 2]


def test_without_a_dev_shm_sglangs_own_code_makes_the_segments(monkeypatch):
    monkeypatch.setattr(linked, "NAMES_ARE_FILES", False)
    result = run(n=3, fix=ONE_SEGMENT)
    assert result.faults() == []
    assert all(each.startswith("/psm_") for each in result.names)
    assert len(result.names) == 4
    assert run(n=3, fault=Fault("fail", send=2), fix=ONE_SEGMENT).verdict.leftovers.segments == []


def test_no_descriptor_left(monkeypatch):
    """A real EMFILE from the kernel: while the segment is made, this process cannot open a file."""
    real = shm_names.SharedMemory

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

    monkeypatch.setattr(shm_names, "SharedMemory", with_no_descriptor)
    monkeypatch.setattr(linked, "said", set())
    result = run(n=3, fix=ONE_SEGMENT)
    assert [event.errno for event in result.events if event.what == "create failed"] == 4 * [errno.EMFILE]
    assert len(linked.said) == 1  # once, though each error names another segment
    assert result.faults() == []
    assert len(result.verdict.answers) == 3


@pytest.mark.long
def test_no_room_left():
    """A real ENOSPC from the kernel: a feature that is larger than the whole /dev/shm goes inline. (With too little
    room, upstream's fix dies of SIGBUS: see the clinic's table.)"""
    try:
        verdict = small_shm.lab(
            ["--n", "2", "--size", "672", "--fix", ONE_SEGMENT.name], mebibytes=8, module="fixed.lab"
        )
    except Refused as refusal:
        pytest.skip(str(refusal))
    assert (verdict.outcome, len(verdict.answers)) == ("survived", 2)
    assert verdict.leftovers.segments == []


@pytest.mark.long
def test_a_thousand_requests_one_in_ten_killed():
    """n = 8, mixed sizes, without the lab's sweep: no fault, no name left, and the memory does not grow."""
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
