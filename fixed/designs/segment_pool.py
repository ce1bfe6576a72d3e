"""A pool of segments that are used again. In a fresh segment, the copy is cheap, and the pages are expensive.

Bringing 57 MB into a fresh segment takes eight times as long as copying them in memory, because the kernel has to find
and to zero every page. A segment that is used again has its pages.

**When is a segment free?** The pool does not count users. It asks the kernel each time, and a segment is free if both
answers are yes:

1. Is the inode's link count 1, and does the base name lead to the inode? Then the base name is the only name. The pool
   keeps the base name and sends it to nobody. So every consumer has opened and unlinked the name that it was sent, and
   no other process can open the segment any more.
2. Does the kernel grant a write lease (`F_SETLEASE`)? It grants one only if no other process has the inode open or
   mapped. It refuses while a consumer still copies the pixels, and while a consumer keeps a copy-on-write mapping until
   its request ends (from sglang 0.5.21 on).

The order of the questions matters. A lease that is granted before the links are counted proves nothing, because in
between, a consumer may open its name and unlink it. Two other tests seem to be enough, but are not. The link count
alone: a consumer that has unlinked its name may still read. The answer to the request: with two ranks, one rank answers
while the other still copies.

In any doubt, the pool takes a fresh segment: no lease, a size that the pool did not give, no base name, any error. Some
kernels grant no leases at all (Linux before 5.3 on a tmpfs, some sandboxes). The pool notices this at its first
segment, says so once, and stays empty.

**A request cannot see another request's pixels.** A segment has exactly the size of its feature, and every byte is
written before the segment gets a name for a send. If a segment changes its size, the kernel frees the rest or adds
zeros. The mode is 0600. The bytes of the last request stay in a free segment until it is used again or given up.

**The size of the pool.** There are at most `most` segments and `limit` bytes. The defaults are 8 segments, and 256 MB
or a quarter of /dev/shm, whichever is less. So /dev/shm holds at most that much more than without the pool. A segment
that was not used for `idle` seconds is given up as soon as it is free. If there is no room in /dev/shm, all segments
are given up.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import resource_tracker
from typing import Any

from .shm_names import KIND, NAMES_ARE_FILES, SHM, forget, linked_to, new_name, remove

LIMIT, SHARE = 256_000_000, 4  # bytes, and /dev/shm divided by SHARE: the smaller one is the limit
MOST, IDLE = 8, 60.0  # segments, seconds
MANY = 8_000_000  # bytes: from this size on, a second thread saves more time than its start takes (0.1 ms)


@dataclass(eq=False)
class Segment:
    """A segment of the pool. `name` is its base name. The pool keeps it, because no link can be made to an inode
    without a name. `used` is the time of the last use, and `size` is in bytes. `mapped` is a tensor over the segment's
    bytes. It is made when the segment is used again with the same size."""

    name: str
    descriptor: int
    inode: int
    used: float
    size: int = 0
    mapped: Any = None

    def fill(self, content: Any) -> None:
        """Make `content`, a one-dimensional tensor of uint8, the whole content of the segment. If the size stays the
        same, the pages exist, and the bytes are copied through a mapping, as fast as memory is. Otherwise they are
        written by `write(2)`, which gives ENOSPC if there is no room; a mapping would give SIGBUS. Raises OSError."""
        if self.size == len(content):
            if self.mapped is None:
                self.mapped = _mapped(self.descriptor, self.size)
            copy(content.data_ptr(), self.mapped.data_ptr(), self.size)
            return
        self.mapped = None  # first: an access beyond the new end of the file would give SIGBUS
        os.ftruncate(self.descriptor, len(content))
        left, at = memoryview(content.numpy()), 0
        while left:
            written = os.pwrite(self.descriptor, left, at)
            left, at = left[written:], at + written
        self.size = len(content)

    def close(self) -> None:
        """Give back the mapping and the file descriptor. No name is removed."""
        self.mapped = None
        os.close(self.descriptor)


def copy(source: int, target: int, size: int) -> None:
    """Copy `size` bytes from the address `source` to the address `target`. From MANY bytes on, a second thread copies
    one half. On a machine with an idle core, that takes little more than half the time of one memcpy. (torch's own copy
    would use all cores, and wait for the busiest one.)"""
    half = size // 2 if size >= MANY else 0
    other = threading.Thread(target=ctypes.memmove, args=(target, source, half), daemon=True)
    if half:
        other.start()
    ctypes.memmove(target + half, source + half, size - half)
    if half:
        other.join()


def _mapped(descriptor: int, size: int) -> Any:
    import torch

    return torch.frombuffer(mmap.mmap(descriptor, size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE), dtype=torch.uint8)


def only_the_base_name_is_left(segment: Segment) -> bool:
    """Return whether no other process can open the segment any more: the base name leads to it, and the link count is
    1. (If a stranger removed the base name, a link count of 1 would mean a consumer's name.) Return False also if the
    segment does not have the size that the pool gave it."""
    status = _behind(segment.name)
    return status is not None and (status.st_nlink, status.st_ino, status.st_size) == (1, segment.inode, segment.size)


def _behind(name: str) -> os.stat_result | None:
    try:
        return os.lstat(f"{SHM}/{name}")
    except OSError:
        return None


def nobody_else_has_it_open(segment: Segment) -> bool:
    """Return whether the kernel grants a write lease. The lease is given back at once, because it only answers the
    question. If a process opens the base name while the lease is held, the kernel sends a signal to this process. By
    default this is SIGIO, which would kill it. So SIGURG is chosen, which is ignored. (The kernel forgets the choice
    with each lease.)"""
    try:
        fcntl.fcntl(segment.descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(segment.descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(segment.descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return False
    return True


@dataclass
class Counts:
    """How many features went into which kind of segment: one with its pages (`warm`), one that was cut to size
    (`resized`), a new one of the pool (`fresh`), or one `outside` the pool. `busy` is how often all segments of the
    right size were in use."""

    warm: int = 0
    resized: int = 0
    fresh: int = 0
    outside: int = 0
    busy: int = 0

    @property
    def features(self) -> int:
        """The number of all features."""
        return self.warm + self.resized + self.fresh + self.outside


class Pool:
    """At most `most` segments, of at most `limit` bytes together. A segment is given up after `idle` seconds without
    use. `clock` returns the time in seconds. In a forked child the pool is empty, because the segments belong to the
    parent."""

    def __init__(
        self,
        limit: int = LIMIT,
        most: int = MOST,
        idle: float = IDLE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit, self.most, self.idle, self.clock = limit, most, idle, clock
        self.segments: list[Segment] = []
        self.counts = Counts()
        self.leases_work = True
        self.lock = threading.Lock()
        os.register_at_fork(after_in_child=self._forget)

    @property
    def bytes(self) -> int:
        """The bytes of all its segments in /dev/shm."""
        return sum(segment.size for segment in self.segments)

    @property
    def base_names(self) -> list[str]:
        """The base names of its segments, which it keeps between requests."""
        return [segment.name for segment in self.segments]

    def name_for(self, content: Any) -> str | None:
        """Write `content`, a one-dimensional tensor of uint8, into a segment, and return a new name of this segment.
        Return None if the pool has no segment to give. Raises OSError, and then makes no name."""
        with self.lock:
            self._give_up_idle()
            segment = self._for_size(len(content))
            if segment is None:
                self.counts.outside += 1
                return None
            try:
                segment.fill(content)
                name = linked_to(segment.name)
            except BaseException:
                self._give_up(segment)  # its content is unknown now
                raise
            segment.used = self.clock()
            return name

    def give_up_idle(self) -> None:
        """Give up each free segment that was not used for `idle` seconds."""
        with self.lock:
            self._give_up_idle()

    def drain(self) -> None:
        """Give up all segments. A consumer that still has a segment open can read it until it closes it."""
        with self.lock:
            for segment in list(self.segments):
                self._give_up(segment)

    def _for_size(self, size: int) -> Segment | None:
        """A segment that may be written: a free one of this size, else a new one, else a free one of another size. None
        if there is no such segment."""
        if not self.leases_work or not NAMES_ARE_FILES or not 0 < size <= self._limit():
            return None
        fitting = [segment for segment in self.segments if segment.size == size]
        for segment in fitting:
            if is_free(segment):
                self.counts.warm += 1
                return segment
        self.counts.busy += bool(fitting)
        if len(self.segments) < self.most and self.bytes + size <= self._limit():
            return self._create()
        return self._resized(size)

    def _resized(self, size: int) -> Segment | None:
        """The free segment that is nearest in size. To make room for it, other free segments are given up, the longest
        unused first. None if that does not make enough room."""
        free = sorted(filter(is_free, self.segments), key=lambda segment: abs(segment.size - size))
        if not free:
            return None
        nearest, *others = free
        for other in sorted(others, key=lambda segment: segment.used):
            if self.bytes - nearest.size + size > self._limit():
                self._give_up(other)
        if self.bytes - nearest.size + size > self._limit():
            return None
        self.counts.resized += 1
        return nearest

    def _create(self) -> Segment | None:
        """A new, empty segment. None if the kernel grants no lease of it. Then the kernel grants no leases at all,
        because no other process can have this segment open yet; so the pool stays empty from now on."""
        name = new_name()
        resource_tracker.register(f"/{name}", KIND)  # before the name exists: so a kill at any moment leaves no name
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(f"{SHM}/{name}", flags, 0o600)
        except OSError:
            forget(name)
            raise
        segment = Segment(name, descriptor, os.fstat(descriptor).st_ino, self.clock())
        self.segments.append(segment)
        if not is_free(segment):
            self.leases_work = False
            self._give_up(segment)
            return None
        self.counts.fresh += 1
        return segment

    def _give_up_idle(self) -> None:
        long_ago = self.clock() - self.idle
        for segment in list(self.segments):
            if (segment.used <= long_ago and is_free(segment)) or _behind(segment.name) is None:
                self._give_up(segment)

    def _give_up(self, segment: Segment) -> None:
        self.segments.remove(segment)
        remove([segment.name])
        segment.close()

    def _limit(self) -> int:
        room = os.statvfs(SHM)
        return min(self.limit, room.f_blocks * room.f_frsize // SHARE or self.limit)

    def _forget(self) -> None:
        self.lock = threading.Lock()
        for segment in self.segments:
            with contextlib.suppress(OSError):
                segment.close()
        self.segments = []


def is_free(segment: Segment) -> bool:
    """Return whether no process reads the segment, and none can open it. The order of the two questions matters: see
    the module's text."""
    return only_the_base_name_is_left(segment) and nobody_else_has_it_open(segment)


def no_room(error: OSError) -> bool:
    """Return whether the error means that there is no room, so that giving up segments may help."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
