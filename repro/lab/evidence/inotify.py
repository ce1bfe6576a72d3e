"""What the kernel itself saw in /dev/shm, without asking Python: inotify's account of names."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from repro.lab.places import SHM


@dataclass(frozen=True)
class Seen:
    """One thing that inotify reported: `what` is `create`, `open` or `unlink`."""

    what: str
    name: str


@dataclass
class Account:
    """What was seen, in order; and why the account is not whole ("" if it is)."""

    seen: list[Seen] = field(default_factory=list)
    trouble: str = ""


@contextlib.contextmanager
def watching() -> Iterator[Account]:
    """An account that holds, when the context ends, what happened to names in /dev/shm meanwhile.

    A failed open leaves no trace in it, and creating a file counts as opening it, too. The kernel queues the events
    (16,384 by default), so no thread is needed. Other programs' names are in it as well. A user may have only so many
    inotify instances (128 by default, and a desktop uses many): where there is none left, the account is empty.
    """
    from inotify_simple import INotify, flags

    account = Account()
    words = {flags.CREATE: "create", flags.OPEN: "open", flags.DELETE: "unlink"}
    closing = flags.CLOSE_WRITE | flags.CLOSE_NOWRITE  # inotify merges equal events: a close keeps two opens apart
    try:
        watch = INotify()
    except OSError as error:
        account.trouble = f"the kernel's account is missing ({error.strerror}; see fs.inotify.max_user_instances)"
        yield account
        return
    with watch:
        watch.add_watch(str(SHM), flags.CREATE | flags.OPEN | flags.DELETE | closing)
        try:
            yield account
        finally:
            for event in watch.read(timeout=0):
                if event.mask & flags.Q_OVERFLOW:
                    account.trouble = "the kernel's account is not whole: its queue was full"
                elif event.name and event.mask in words:  # without a name it is the folder itself
                    account.seen.append(Seen(words[event.mask], f"/{event.name}"))
