"""One segment for all sends of a feature, as in `one_segment_many_names`; and the segment is used again.

What a send then costs is one copy in memory, for n = 1 and for n = 32. The pages are there from an earlier request
(`segment_pool`), and each send gets a hard link of its own. The scheduler runs as released, and opens and unlinks the
name that it was sent.

Stands around the same functions as `one_segment_many_names`, with that module's own hooks; only where a segment would
be made, the pool is asked first. All that module says of names, failures and what it relies on holds here, too. Where
the pool has nothing to give, a send costs what it costs there.

**What it adds to what it relies on.** Consumers come to a segment by the name that they were sent, and by no other
way. One who opened a base name, of which there is one a segment in /dev/shm, could see a later request's pixels; it
would have to be the same user, who can read all of them anyway.
"""

from __future__ import annotations

import asyncio
import atexit
import errno
import logging
from collections.abc import Callable
from typing import Any

from . import one_segment_many_names as one
from .segment_pool import Pool, no_room

logger = logging.getLogger(__name__)
POOL = Pool()


class Alarm:
    """Gives up idle segments while no request comes. One at a time, on the loop that sends."""

    loop: Any = None

    @classmethod
    def set(cls) -> None:
        """Look again after the pool's `idle` seconds, if this is asyncio's thread and nothing is set there yet."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        if cls.loop is not loop:
            cls.loop = loop
            loop.call_later(POOL.idle, cls.ring)

    @classmethod
    def ring(cls) -> None:
        """The time has come."""
        cls.loop = None
        POOL.give_up_idle()
        if POOL.segments:
            cls.set()


def name_instead_of_segment(init: Callable[..., None], self: Any, tensor: Any, *arguments: Any, **named: Any) -> None:
    """Make `self` a pointer to `tensor` under a name of its own, to a segment of the pool where it has one. Stands
    around `ShmPointerMMData.__init__` (mm_utils.py). Raises OSError."""
    before = one.source.set(name_for)
    try:
        one.name_instead_of_segment(init, self, tensor, *arguments, **named)
    finally:
        one.source.reset(before)


def name_for(tensor: Any) -> str:
    """The name of a segment that holds the bytes of `tensor`: one of the pool, else one of its own. Raises OSError."""
    name = _in_the_pool(tensor) or one.new_segment(tensor)
    Alarm.set()
    features = POOL.counts.features
    if str(features).strip("0") == "1":  # 1, 10, 100, ...
        logger.info("%s", report())
    return name


def _in_the_pool(tensor: Any) -> str | None:
    if not one.Links.work:
        return None
    try:
        return POOL.name_for(one.bytes_of(tensor))
    except OSError as error:
        if error.errno in one.CANNOT_LINK:
            one.Links.work = False
            one.say_once("every send gets a segment of its own, for there are no links", error)
        elif no_room(error):
            POOL.drain()
        return None
    finally:
        if not POOL.leases_work:
            why = OSError(errno.EOPNOTSUPP, "the kernel grants no leases in /dev/shm")
            one.say_once("segments are not used again", why)


def report() -> str:
    """What the pool has done, in one line for the log."""
    counts = POOL.counts
    return (
        f"warm_segments: {counts.features} features sent, {counts.warm} in a warm segment, {counts.resized} in one cut"
        f" to size, {counts.fresh} in a new one, {counts.outside} outside the pool; {counts.busy} times the right one"
        f" was in use; the pool has {len(POOL.segments)} segments, {POOL.bytes / 1e6:.1f} MB"
    )


def kept() -> list[str]:
    """The names that stay in /dev/shm between requests."""
    return POOL.base_names


def drain() -> None:
    """Give up all of them."""
    POOL.drain()


atexit.register(drain)
HOOKS = {
    **one.HOOKS,
    "sglang.srt.managers.mm_utils.ShmPointerMMData.__init__": name_instead_of_segment,
}
