"""One segment for all sends of a feature, as in `one_segment_many_names`; and later requests use the segment again.

So all sends of a feature together cost one copy in memory, for n = 1 and for n = 32. The pages exist since an earlier
request (`segment_pool`), and each send gets a hard link of its own. The scheduler runs as released: it opens and
unlinks the name that it was sent.

The hooks are those of `one_segment_many_names`, around the same functions. The only difference: before a segment is
made, the pool is asked for one. What `one_segment_many_names` says about names, failures and conditions holds here,
too. If the pool has no segment to give, a send costs as much as in `one_segment_many_names`.

**What the design relies on in addition.** A consumer opens a segment only by the name that it was sent. Each segment
also has a base name in /dev/shm. A process that opened the base name could see a later request's pixels. But this
process would have to belong to the same user, who can read all of these pixels anyway.
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
    """A timer that gives up idle segments while no request comes. At most one timer is set, on the loop that sends."""

    loop: Any = None

    @classmethod
    def set(cls) -> None:
        """Set the timer to the pool's `idle` seconds, if a loop runs in this thread and the timer is not set there."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        if cls.loop is not loop:
            cls.loop = loop
            loop.call_later(POOL.idle, cls.ring)

    @classmethod
    def ring(cls) -> None:
        """Give up the idle segments. If there are other segments, set the timer again."""
        cls.loop = None
        POOL.give_up_idle()
        if POOL.segments:
            cls.set()


def name_instead_of_segment(init: Callable[..., None], self: Any, tensor: Any, *arguments: Any, **named: Any) -> None:
    """Hook around `ShmPointerMMData.__init__` (mm_utils.py). Makes `self` a pointer to `tensor` under a name of its
    own. The segment is one of the pool, if the pool has one to give. Raises OSError."""
    before = one.source.set(name_for)
    try:
        one.name_instead_of_segment(init, self, tensor, *arguments, **named)
    finally:
        one.source.reset(before)


def name_for(tensor: Any) -> str:
    """Return a name of a segment that holds the bytes of `tensor`: a segment of the pool, or else a new one. Raises
    OSError."""
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
    """Return the pool's counts as one line for the log."""
    counts = POOL.counts
    return (
        f"warm_segments: {counts.features} features sent, {counts.warm} in a warm segment, {counts.resized} in one cut"
        f" to size, {counts.fresh} in a new one, {counts.outside} outside the pool; {counts.busy} times the right one"
        f" was in use; the pool has {len(POOL.segments)} segments, {POOL.bytes / 1e6:.1f} MB"
    )


def kept() -> list[str]:
    """Return the names that stay in /dev/shm between requests."""
    return POOL.base_names


def drain() -> None:
    """Give up all segments of the pool."""
    POOL.drain()


atexit.register(drain)
HOOKS = {
    **one.HOOKS,
    "sglang.srt.managers.mm_utils.ShmPointerMMData.__init__": name_instead_of_segment,
}
