"""What a run has left in /dev/shm, and how to remove it. Each file is identified by its inode: if a name leads to
another file now, the name is not touched."""

from __future__ import annotations

from collections.abc import Iterable

from repro.lab.evidence.event import MAKING, Event


def left(events: Iterable[Event]) -> list[Event]:
    """The last event that made an entry in /dev/shm, for each entry that is still there."""
    made = {event.path: event for event in events if event.what in MAKING}
    return [event for event in made.values() if event.is_still_there()]


def sweep(events: Iterable[Event]) -> tuple[list[str], list[str]]:
    """Unlink the entries that these events made. Returns the entries that were still there, and those that are there
    afterwards."""
    found = left(events)
    for event in found:
        event.path.unlink(missing_ok=True)
    return [event.path.name for event in found], [event.path.name for event in left(found)]
