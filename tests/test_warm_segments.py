"""Warm segments: a segment is used again when the kernel says that nobody reads it, and never before."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import fcntl
import logging
import os
import pickle
import threading
import time

import pytest
import torch

from fixed.designs import WARM_SEGMENTS, segment_pool, warm_segments
from fixed.designs import one_segment_many_names as one
from fixed.designs.segment_pool import Pool
from fixed.designs.shm_names import remove
from repro.lab.lifted import Fault, run
from repro.lab.places import SHM
from repro.lab.releases import ALL, LAST
from repro.lab.upstream.release import Release
from tests.batches import CONTAINED, batch

SERVED = ALL[ALL.index("0.5.11") :]  # those that can load a plugin


@pytest.fixture(autouse=True)
def an_empty_pool():
    """Each test begins and ends without a segment in the design's own pool."""
    warm_segments.POOL.drain()
    yield
    warm_segments.POOL.drain()


@pytest.fixture
def pool():
    """A pool of this test's own, with a clock that stands still; it is emptied at the end."""
    made = Pool(limit=100_000, most=3, idle=60.0, clock=lambda: pool_time[0])
    pool_time[0] = 0.0
    yield made
    made.drain()


pool_time = [0.0]


def content(size: int, value: int = 7) -> torch.Tensor:
    """So many bytes of that value."""
    return torch.full((size,), value, dtype=torch.uint8)


def pointer(release: str, name: str, size: int):
    """The pointer of a consumer of that release, which has opened the segment by the release's own functions."""
    kind = Release.of(release).mm_utils.module.ShmPointerMMData
    sent = kind.__new__(kind)
    vars(sent).update(shm_name=name, shape=torch.Size([size]), dtype=torch.uint8, tensor=None, _shm_handle=None)
    sent.precomputed_hash = None
    return pickle.loads(pickle.dumps(sent))


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("release", SERVED)
def test_every_release_gets_every_byte_and_a_segment_is_used_again(release, ranks):
    before = vars(warm_segments.POOL.counts).copy()
    for n in (1, 3, 1):
        result = run(batch(2, items=2, shape=(8, 16)), n=n, ranks=ranks, release=release, fix=WARM_SEGMENTS)
        assert result.faults() == []
        assert all(send.intact for send in result.sends)
        assert len({name for send in result.sends for name in send.names}) == 4 * (n + (n > 1))
    counts = warm_segments.POOL.counts
    assert counts.warm > before["warm"]
    assert counts.fresh - before["fresh"] <= segment_pool.MOST


@pytest.mark.parametrize("release", [LAST, "0.5.13", "0.5.20", CONTAINED])
def test_nothing_is_overwritten_under_a_slow_consumer(release, pool):
    """Two ranks open the segment. One rank leaves, and the other still reads. (From 0.5.21 on, it reads a copy-on-write
    mapping.) Meanwhile ten requests of the same size are sent. At the end, the slow rank's bytes are compared."""
    name = pool.name_for(content(9000, 1))
    fast, slow = pointer(release, name, 9000), pointer(release, name, 9000)
    fast.materialize()
    read = slow.tensor if release != CONTAINED else slow.materialize()
    for value in range(2, 12):
        later = pool.name_for(content(9000, value))
        assert later is None or pointer(release, later, 9000).materialize().eq(value).all()
    assert read.eq(1).all()
    if release != CONTAINED:
        assert slow.materialize().eq(1).all()


@pytest.mark.parametrize("safeguard", ["only_the_base_name_is_left", "nobody_else_has_it_open"])
def test_without_a_safeguard_it_would_be(safeguard, pool, monkeypatch):
    """Both the link count and the lease are needed. Without one of them, a request that was not read yet is
    overwritten."""
    monkeypatch.setattr(segment_pool, safeguard, lambda segment: True)
    name = pool.name_for(content(9000, 1))
    if safeguard == "only_the_base_name_is_left":  # sent, and not opened yet
        remove_later = pool.name_for(content(9000, 2))
        read = pointer(LAST, name, 9000).materialize()
        remove([remove_later])
    else:
        fast, slow = pointer(LAST, name, 9000), pointer(LAST, name, 9000)
        fast.materialize()
        remove([pool.name_for(content(9000, 2))])
        read = slow.materialize()
    assert read.eq(2).all()


def test_a_base_name_that_somebody_removed_is_no_free_segment(pool):
    """Then a link count of 1 is a consumer's name."""
    name = pool.name_for(content(9000, 1))
    os.unlink(SHM / pool.base_names[0])
    os.link(SHM / name, SHM / f"{name}0")
    os.unlink(SHM / f"{name}0")
    other = pool.name_for(content(9000, 2))
    assert pointer(LAST, name, 9000).materialize().eq(1).all()
    remove([other])


def test_no_byte_of_an_earlier_request_can_be_read_through_a_later_one(pool):
    """Other sizes, smaller and larger: the segment has exactly the size of the feature."""
    for size, value in [(9000, 1), (30, 2), (20_000, 3), (4097, 4), (9000, 5)]:
        pool.most = 1
        name = pool.name_for(content(size, value))
        path = SHM / name
        assert path.stat().st_size == size
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.read_bytes() == bytes([value]) * size
        remove([name])
    assert (pool.counts.fresh, pool.counts.resized) == (1, 4)


def test_it_never_holds_more_than_it_says(pool):
    names = [pool.name_for(content(30_000 + i, i)) for i in range(20)]
    assert pool.bytes <= pool.limit
    assert len(pool.segments) == 3
    assert names[3:] == 17 * [None]  # all are in use
    assert pool.name_for(content(100_001)) is None  # too large
    remove([name for name in names if name])
    for size in (90_000, 10, 60_000, 99_999, 1, 50_000):
        remove([pool.name_for(content(size))])
        assert pool.bytes == sum((SHM / name).stat().st_size for name in pool.base_names) <= pool.limit


def test_a_quarter_of_dev_shm_is_the_most(pool, monkeypatch):
    real = os.statvfs(SHM)
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result((4096, 4096, 8, *tuple(real)[3:])))
    assert pool.name_for(content(8193)) is None
    remove([pool.name_for(content(8192))])


def test_what_is_not_used_is_given_up(pool):
    idle, busy = pool.name_for(content(10)), pool.name_for(content(20))
    remove([idle])
    pool_time[0] = 61.0
    pool.give_up_idle()
    assert [segment.size for segment in pool.segments] == [20]
    remove([busy])
    pool.give_up_idle()
    assert pool.segments == []


def test_where_the_kernel_grants_no_leases_nothing_is_kept_and_it_says_so_once(monkeypatch, caplog):
    monkeypatch.setattr(segment_pool, "nobody_else_has_it_open", lambda segment: False)
    monkeypatch.setattr(warm_segments, "POOL", Pool())
    monkeypatch.setattr(one, "said", set())
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert run(n=2, fix=WARM_SEGMENTS).faults() == []
    assert len([record for record in caplog.records if "no leases" in record.message]) == 1
    assert warm_segments.POOL.segments == []


def test_no_room_gives_the_pool_up_and_everybody_is_answered(monkeypatch):
    assert run(n=1, fix=WARM_SEGMENTS).faults() == []
    assert warm_segments.POOL.segments

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(segment_pool.Segment, "fill", full)
    assert run(n=2, fix=WARM_SEGMENTS).faults() == []
    assert warm_segments.POOL.segments == []


@pytest.mark.parametrize("at", [0, 2])
@pytest.mark.parametrize("what", ["fail", "cancel", "kill"])
def test_a_fault_leaves_no_name_but_those_that_were_sent(what, at):
    result = run(n=3, fault=Fault(what, "send" if what == "kill" else "", send=at), fix=WARM_SEGMENTS)
    sent = {each for send in result.sends for each in send.names if send.gone}
    assert set(result.verdict.leftovers.segments) <= (sent if what == "kill" else set())
    assert run(n=3, fix=WARM_SEGMENTS).faults() == []


def test_what_the_kernel_writes_in_parts_is_whole(pool, monkeypatch):
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, at: whole(descriptor, data[:1000], at))
    data = torch.arange(4500, dtype=torch.int64).to(torch.uint8)
    name = pool.name_for(data)
    assert (SHM / name).read_bytes() == bytes(data.tolist())
    remove([name])


def test_a_limit_is_the_last_that_is_allowed(pool):
    """In bytes and in seconds."""
    assert pool.name_for(content(0)) is None
    assert pool.name_for(content(pool.limit + 1)) is None
    assert vars(pool.counts) == {"warm": 0, "resized": 0, "fresh": 0, "outside": 2, "busy": 0}
    for size in (1, pool.limit):
        remove([pool.name_for(content(size))])
        pool_time[0] += pool.idle
        pool.give_up_idle()
        assert pool.segments == []
    assert (pool.counts.fresh, pool.counts.features) == (2, 4)


def test_an_alarm_is_set_once_and_gives_up_what_is_idle(monkeypatch):
    monkeypatch.setattr(warm_segments, "POOL", Pool(idle=0.02))
    alarms = []

    async def sends() -> None:
        loop = asyncio.get_running_loop()
        later = loop.call_later

        def watched(seconds, callback, *arguments, **named):
            alarms.extend([seconds] * (callback == warm_segments.Alarm.ring))  # asyncio.sleep comes here, too
            return later(seconds, callback, *arguments, **named)

        monkeypatch.setattr(loop, "call_later", watched)
        for _ in range(3):
            remove([warm_segments.name_for(content(10))])
        assert alarms == [0.02]
        until = loop.time() + 10
        while warm_segments.POOL.segments and loop.time() < until:
            await asyncio.sleep(0.005)

    asyncio.run(sends())
    assert warm_segments.POOL.segments == []
    assert warm_segments.Alarm.loop is None


def test_the_report_has_the_figures_of_the_pool(monkeypatch):
    monkeypatch.setattr(warm_segments, "POOL", Pool())
    name = warm_segments.name_for(content(2_000_000))
    assert warm_segments.report() == (
        "warm_segments: 1 features sent, 0 in a warm segment, 0 in one cut to size, 1 in a new one, 0 outside the pool;"
        " 0 times the right one was in use; the pool has 1 segments, 2.0 MB"
    )
    remove([name])
    warm_segments.POOL.drain()


def test_a_forked_child_does_not_write_into_its_parents_segments(pool):
    remove([pool.name_for(content(10))])
    child = os.fork()
    if child == 0:
        os._exit(len(pool.segments))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(pool.segments) == 1


def test_a_stranger_who_opens_a_base_name_does_not_kill_the_tokenizer(monkeypatch):
    """The kernel sends a signal to the holder of the lease. It must not be SIGIO, because SIGIO kills a process."""
    child = os.fork()
    if child == 0:
        its, real, refused = Pool(), fcntl.fcntl, []

        def watched(descriptor, command, argument):
            if (command, argument) == (fcntl.F_SETLEASE, fcntl.F_UNLCK) and its.segments:
                try:
                    os.open(SHM / its.base_names[0], os.O_RDONLY | os.O_NONBLOCK)
                except BlockingIOError:
                    refused.append(descriptor)
            return real(descriptor, command, argument)

        monkeypatch.setattr(fcntl, "fcntl", watched)
        for _ in range(2):
            remove([its.name_for(content(10))])
        its.drain()
        os._exit(0 if len(refused) == 2 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_the_speeds_are_those_of_one_run():
    """No test checks the speed itself, because other programs share this machine. This test checks that each speed is
    measured and printed."""
    from fixed.clinic import speed

    found = speed.measured(56, 2, rounds=2)
    assert {way: len(rounds) for way, rounds in found.milliseconds.items()} == dict.fromkeys([*speed.WAYS, "memcpy"], 2)
    assert all(min(rounds) > 0 for rounds in found.milliseconds.values())
    assert warm_segments.POOL.segments == []
    assert speed.speed_table([found]).splitlines()[1].split()[:2] == ["56", "2"]


def test_a_speed_that_misses_its_goal_is_said_to():
    from fixed.clinic.speed import Speed, cases, speed_goals

    assert cases((2, 32), (224, 1536)) == [(224, 1), (224, 2), (1536, 1), (1536, 32)]
    good = {"released": [3000.0, 2500.0], "one_segment": [30.0, 31.0], "cold": [29.0, 30.0], "warm": [6.0, 7.0]}
    bad = {"released": [6.0, 6.0], "one_segment": [30.0, 30.0], "cold": [31.0, 31.0], "warm": [7.0, 7.0]}
    for times, word in ((good, " reached "), (bad, " MISSED ")):
        times["memcpy"] = [5.0, 5.5]
        told = speed_goals([Speed(224, 2, times), Speed(1536, 32, times)])
        assert [word in line for line in told if "for comparison" not in line] == [True] * 5
    told = speed_goals([Speed(1536, 32, good)])
    assert "1/417 of the release's" in told[1]  # the median of the rounds' ratios
    assert told[2].split("  ")[0] == "one memcpy, n = 32, 1536 x 1536"
    assert "1/517 of the release's" in told[2]  # of 600 and 454.5


def test_a_copy_by_two_threads_is_a_copy(monkeypatch):
    """Every byte, and none beyond: with a size that cannot be halved, and with one just below the threshold. It is over
    when both threads are, however slow the second one is."""
    memmove = ctypes.memmove

    def slow_elsewhere(*arguments):
        time.sleep(0.2 * (threading.current_thread() is not threading.main_thread()))
        memmove(*arguments)

    monkeypatch.setattr(ctypes, "memmove", slow_elsewhere)
    for size in (segment_pool.MANY - 1, segment_pool.MANY + 1):
        source, target = torch.randint(0, 256, (size,), dtype=torch.uint8), torch.zeros(size + 8, dtype=torch.uint8)
        segment_pool.copy(source.data_ptr(), target.data_ptr(), size)
        assert torch.equal(target[:size], source)
        assert not target[size:].any()
