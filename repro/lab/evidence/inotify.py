"""What the kernel itself saw in /dev/shm, without asking Python: inotify's account of names."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SHM = Path("/dev/shm")


@dataclass(frozen=True)
class Seen:
    """One thing that inotify reported: `what` is `create`, `open` or `unlink`."""

    what: str
    name: str


@contextlib.contextmanager
def watching() -> Iterator[list[Seen]]:
    """A list that holds, when the context ends, what happened to names in /dev/shm meanwhile, in order.

    A failed open leaves no trace in it, and creating a file counts as opening it, too. The kernel queues the events
    (16,384 by default), so no thread is needed. Other programs' names are in it as well.
    """
    from inotify_simple import INotify, flags

    words = {flags.CREATE: "create", flags.OPEN: "open", flags.DELETE: "unlink"}
    closing = flags.CLOSE_WRITE | flags.CLOSE_NOWRITE  # watched so that they part two openings: equal events merge
    seen: list[Seen] = []
    with INotify() as watch:
        watch.add_watch(str(SHM), flags.CREATE | flags.OPEN | flags.DELETE | closing)
        try:
            yield seen
        finally:
            for event in watch.read(timeout=0):
                if event.name and event.mask in words:  # without a name it is the folder itself
                    seen.append(Seen(words[event.mask], f"/{event.name}"))
