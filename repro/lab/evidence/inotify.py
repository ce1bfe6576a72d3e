"""The kernel's own account of the names in /dev/shm, by inotify. It does not rely on Python."""

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
    """What inotify reported, in order, and why the account is incomplete ("" if it is complete)."""

    seen: list[Seen] = field(default_factory=list)
    trouble: str = ""


@contextlib.contextmanager
def watching() -> Iterator[Account]:
    """A context with an account. When the context ends, the account holds what happened to names in /dev/shm meanwhile.

    A failed open is not in the account. A create is also reported as an open. The kernel queues the events (16,384 by
    default), so no thread is needed. Other programs' names are in the account, too. The number of inotify instances of
    a user is limited (128 by default, and a desktop uses many). If no instance is left, the account is empty, and
    `trouble` says so.
    """
    from inotify_simple import INotify, flags

    account = Account()
    words = {flags.CREATE: "create", flags.OPEN: "open", flags.DELETE: "unlink"}
    closing = flags.CLOSE_WRITE | flags.CLOSE_NOWRITE  # a close keeps two opens apart (inotify merges equals)
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
                    account.trouble = "the kernel's account is incomplete: its queue was full"
                elif event.name and event.mask in words:  # an event without a name is about the folder itself
                    account.seen.append(Seen(words[event.mask], f"/{event.name}"))
