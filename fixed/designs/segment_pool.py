"""A pool of segments that are used again, because the price of a fresh segment is not the copy: it is the pages.

To bring 57 MB into a fresh segment takes eight times as long as to copy them in memory: the kernel has to find and to
zero every page. A segment that is used again has its pages.

**When is a segment free?** The pool keeps no account of it. The pool asks the kernel, each time:

1. The link count of the inode is 1, and the base name leads to it. So that is the only name; the pool keeps it and
   sends it to nobody. Every consumer that was sent a name has opened and unlinked it, and no other process can open the
   segment any more.
2. The kernel grants a write lease (`F_SETLEASE`). It grants one only if nobody else has the inode open or mapped. So a
   consumer that still copies out of it, and one that keeps a copy-on-write mapping of it until its request ends
   (sglang 0.5.21 on), both make the kernel say no.

The order counts. A lease that was granted before the links were counted says nothing: a consumer may have opened,
and unlinked its name, in between. Two other questions look right and are not: the link count alone (a consumer unlinks
and may still read), and the answer to the request (with two ranks, one answers while the other still copies).

Any doubt means a fresh segment: no lease, another size than the pool gave it, no base name, any error. Where the kernel
grants no leases at all (Linux before 5.3 on a tmpfs, some sandboxes) the pool finds out with its first segment, says so
once, and stays empty.

**What one request can see of another: nothing.** A segment has exactly the size of its feature, and every byte of it is
written before it is named. A segment that changes its size is cut by the kernel, which frees the rest or adds zeros.
The mode is 0600. The bytes of the last request stay in a free segment until it is used again, or given up.

**How large.** At most `most` segments and `limit` bytes; by default 8 segments, and 256 MB or a quarter of /dev/shm,
whichever is less. So /dev/shm holds at most that much more than without the pool. A segment that was not used for
`idle` seconds is given up, when its consumers have left it. When there is no room, all free ones are.
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

LIMIT, SHARE = 256_000_000, 4  # bytes, and one of so many parts of /dev/shm: the smaller of the two
MOST, IDLE = 8, 60.0  # segments, seconds
MANY = 8_000_000  # bytes, for which it pays to start a thread (a tenth of a millisecond)


@dataclass(eq=False)
class Segment:
    """A segment of the pool. `name` is its base name: an inode without a name could never be given another one.
    `mapped` is a tensor over its bytes, made when the segment is used again with the same size."""

    name: str
    descriptor: int
    inode: int
    used: float
    size: int = 0
    mapped: Any = None

    def fill(self, content: Any) -> None:
        """Make these bytes, a one-dimensional tensor of uint8, the whole content. Through a mapping if the pages exist,
        as fast as memory is; else by `write(2)`, which says ENOSPC where a mapping would be a SIGBUS. Raises
        OSError."""
        if self.size == len(content):
            if self.mapped is None:
                self.mapped = _mapped(self.descriptor, self.size)
            copy(content.data_ptr(), self.mapped.data_ptr(), self.size)
            return
        self.mapped = None  # first: what is mapped beyond the end of a file is a SIGBUS
        os.ftruncate(self.descriptor, len(content))
        left, at = memoryview(content.numpy()), 0
        while left:
            written = os.pwrite(self.descriptor, left, at)
            left, at = left[written:], at + written
        self.size = len(content)

    def close(self) -> None:
        """Give back the mapping and the descriptor; names are not touched."""
        self.mapped = None
        os.close(self.descriptor)


def copy(source: int, target: int, size: int) -> None:
    """Copy `size` bytes from one address to another. Where they are many, a second thread copies one half: on a machine
    with an idle core, that takes little more than half the time of one memcpy. (torch's own copy would take all cores,
    and wait for the busiest.)"""
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
    """Whether nobody can open it any more. (Somebody may have removed the base name: then a link count of 1 would be
    a consumer's name.) False, too, if it has not the size that the pool gave it."""
    status = _behind(segment.name)
    return status is not None and (status.st_nlink, status.st_ino, status.st_size) == (1, segment.inode, segment.size)


def _behind(name: str) -> os.stat_result | None:
    try:
        return os.lstat(f"{SHM}/{name}")
    except OSError:
        return None


def nobody_else_has_it_open(segment: Segment) -> bool:
    """Whether the kernel grants a write lease. The lease is given back at once: it was the question, and no protection.
    If someone opens the base name in just that moment, the kernel sends a signal: SIGIO, of which this process would
    die, or the one that was chosen. SIGURG is ignored. (The kernel forgets the choice with each lease.)"""
    try:
        fcntl.fcntl(segment.descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(segment.descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(segment.descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return False
    return True


@dataclass
class Counts:
    """What became of the features: in a segment with its pages (`warm`), in one that was cut to size (`resized`), in a
    new one of the pool (`fresh`), or `outside` the pool. `busy`: how often a segment of the right size was in use."""

    warm: int = 0
    resized: int = 0
    fresh: int = 0
    outside: int = 0
    busy: int = 0

    @property
    def features(self) -> int:
        """How many there were."""
        return self.warm + self.resized + self.fresh + self.outside


class Pool:
    """At most `most` segments of at most `limit` bytes together, each given up after `idle` seconds without use. In a
    forked child, the pool is empty: the segments are the parent's."""

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
        """How many bytes of /dev/shm its segments have."""
        return sum(segment.size for segment in self.segments)

    @property
    def base_names(self) -> list[str]:
        """The names that it keeps."""
        return [segment.name for segment in self.segments]

    def name_for(self, content: Any) -> str | None:
        """A new name of a segment that holds these bytes, a one-dimensional tensor of uint8; None if the pool has none
        to give. Raises OSError, and then nobody was given anything."""
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
                self._give_up(segment)  # who knows what is in it
                raise
            segment.used = self.clock()
            return name

    def give_up_idle(self) -> None:
        """Give up what was not used for `idle` seconds and is free."""
        with self.lock:
            self._give_up_idle()

    def drain(self) -> None:
        """Give up all segments. A consumer that still has one open keeps it as long as it likes."""
        with self.lock:
            for segment in list(self.segments):
                self._give_up(segment)

    def _for_size(self, size: int) -> Segment | None:
        """A segment that may be written: a free one of that size, else a new one, else a free one of another size."""
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
        """The free segment that is nearest in size, others given up as far as there has to be room; None if that is not
        enough."""
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
        """A new segment without a byte. None, now and in future, if the kernel grants no lease of it: nobody else can
        have it open yet."""
        name = new_name()
        resource_tracker.register(f"/{name}", KIND)  # before it exists: no moment in which a kill would leave it
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
    """Whether nobody reads it and nobody can come to read it. In this order: see above."""
    return only_the_base_name_is_left(segment) and nobody_else_has_it_open(segment)


def no_room(error: OSError) -> bool:
    """Whether giving up segments may help."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
