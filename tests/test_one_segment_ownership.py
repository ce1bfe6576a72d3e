"""One segment, many names: who owns which name while a batch goes well, and when it does not."""

from __future__ import annotations

import asyncio
import os
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fixed.clinic import ends
from fixed.designs import ONE_SEGMENT, shm_names
from fixed.designs import one_segment_many_names as linked
from repro.lab.lifted import Fault, run
from repro.lab.lifted.fault import MOMENTS
from repro.lab.lifted.request import checksums
from repro.lab.places import SHM
from repro.lab.releases import LAST
from tests import machine
from tests.batches import ANY, CONTAINED, RELEASES, batch, examples


@pytest.mark.parametrize("release", RELEASES)
def test_every_send_owns_what_it_sends(release):
    @examples(25)
    @given(**ANY, ranks=st.sampled_from([1, 1, 2]))
    def check(feature, n, prompts, items, ranks, shape, dtype):
        sent = batch(prompts, feature, items=items, shape=shape, dtype=dtype)
        result = run(sent, n=n, ranks=ranks, release=release, fix=ONE_SEGMENT)
        assert result.faults() == []
        assert len(result.verdict.answers) == n * prompts
        assert all(send.intact for send in result.sends)
        assert not result.mutated
        if 0 in shape:  # upstream refuses them; a name for no bytes there is not, so they go inline
            assert result.names == []

    check()


def test_n_plus_1_names_lead_to_one_segment():
    result = run(n=8, fix=ONE_SEGMENT)
    assert len(set(result.names)) == 9
    assert len({inode for send in result.sends for inode in send.segments}) == 1
    assert [event.what for event in result.events if event.what in ("create", "link")] == ["create"] + 8 * ["link"]


def test_every_item_has_a_segment_of_its_own():
    result = run(batch(2, "list", items=2), n=3, fix=ONE_SEGMENT)
    assert len({inode for send in result.sends for inode in send.segments}) == 2 * 2 * 2
    assert len(set(result.names)) == 2 * 2 * 2 * 4


def test_a_tensor_that_is_in_two_items_is_written_once_for_each():
    """It is not written once for each send: the second segment also has names for all sends."""
    twice = batch(1, items=2)
    first, second = twice[0].items()
    second.feature = first.feature
    twice[0].checksums = checksums(twice[0])
    result = run(twice, n=5, fix=ONE_SEGMENT)
    assert result.faults() == []
    assert sum(event.what == "create" for event in result.events) == 2


def test_one_sample_has_one_name():
    result = run(n=1, fix=ONE_SEGMENT)
    assert result.faults() == []
    assert [event.what for event in result.events if event.what in ("create", "link")] == ["create"]


def test_only_the_owner_may_read():
    names = [linked.new_segment(torch.arange(9))]
    linked.add_names(names, 2)
    modes = {os.stat(SHM / each).st_mode & 0o777 for each in names}
    assert (len(names), modes, os.stat(SHM / names[0]).st_nlink) == (3, {0o600}, 3)
    shm_names.remove(names)


def test_a_name_that_is_taken_is_not_overwritten(monkeypatch):
    monkeypatch.setattr(linked, "new_name", lambda: "sgl_shm_mm_taken")
    (SHM / "sgl_shm_mm_taken").write_text("another's", encoding="utf-8")
    try:
        result = run(n=2, fix=ONE_SEGMENT)
        assert result.verdict.outcome == "survived"
        assert result.names == []  # it went inline
        assert (SHM / "sgl_shm_mm_taken").read_text(encoding="utf-8") == "another's"
    finally:
        (SHM / "sgl_shm_mm_taken").unlink()


@pytest.mark.parametrize("at", range(4))
@pytest.mark.parametrize(("what", "error"), [("fail", "ZMQError"), ("cancel", "CancelledError")])
@pytest.mark.parametrize("release", [LAST, CONTAINED])
def test_nothing_is_left_when_a_send_fails_or_the_client_goes_away(what, error, at, release):
    result = run(batch(1, items=2), n=3, release=release, fault=Fault(what, send=at), fix=ONE_SEGMENT)
    assert result.verdict.error == error
    assert result.verdict.leftovers.segments == []
    unlinked = Counter(event.name for event in result.events if event.what == "unlink")
    assert set(unlinked.values()) == {1}


@pytest.mark.parametrize("at", [0, 2])
@pytest.mark.parametrize("moment", MOMENTS["kill"])
def test_a_killed_scheduler_leaves_only_what_it_was_sent(moment, at):
    """Only sent names are left, and the next run is right. The sent names are removed when the tokenizer ends."""
    result = run(n=3, fault=Fault("kill", at=moment, send=at), fix=ONE_SEGMENT)
    if (moment, at) == ("create", 2):  # all names are made for the first send
        assert result.verdict.outcome == "survived"
    else:
        assert result.verdict.error == "scheduler killed by SIGKILL"
    sent = {each for send in result.sends for each in send.names if send.gone}
    assert set(result.verdict.leftovers.segments) <= sent
    assert result.verdict.leftovers.remaining == []
    assert run(n=3, fix=ONE_SEGMENT).faults() == []


@pytest.mark.long
def test_nothing_is_left_when_the_tokenizer_is_killed_after_its_scheduler():
    """The tokenizer alone is killed by SIGKILL. The resource tracker knows every name. (The clinic's table has the
    other ways to end.)"""
    assert ends.leaked("by_sigkill", [ONE_SEGMENT]) == {ONE_SEGMENT.name: 0}


@pytest.mark.parametrize("arguments", [(), (None,), (os.getpid(),)])
def test_before_the_tree_is_killed_its_names_are_removed(arguments):
    names = [linked.new_segment(torch.arange(9))]
    linked.add_names(names, 2)
    there = []
    linked.kill_process_tree(
        lambda *given: there.extend(machine.names() & set(names)) or there.append(given), *arguments
    )
    assert there == [arguments]
    shm_names.remove(names)


def test_another_tree_that_is_killed_is_no_reason_to_remove_names():
    """sglang calls the same function for single children, such as a detokenizer."""
    names = [linked.new_segment(torch.arange(9))]
    linked.kill_process_tree(lambda pid: None, os.getppid())
    assert set(names) <= machine.names()
    shm_names.remove(names)


def test_the_callers_task_is_in_no_batch_between_two_answers():
    """Between two answers, the caller may send another request. This send must not count as a send of the batch."""

    async def handler(manager, obj):
        for _ in range(2):
            yield linked.current.get() is not None

    async def listen():
        asked = type("Asked", (), {"parallel_sample_num": 2})()
        return [(inside, linked.current.get()) async for inside in linked.handle_batch_request(handler, None, asked)]

    assert asyncio.run(listen()) == [(True, None)] * 2


def test_the_client_may_stop_listening():
    """An answer is taken, and then the generator is closed: the batch is over."""

    async def handler(manager, obj):
        linked.taken.set([])
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
    shm_names.remove([first])
