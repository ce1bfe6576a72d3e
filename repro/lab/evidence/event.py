"""An event: one thing that happened to one name in /dev/shm. This module also reads the file to which a run's processes
write their events."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from repro.lab.places import SHM

NAMING = ("create", "link")  # what makes a name
MAKING = (*NAMING, "semaphore")  # what makes an entry in /dev/shm


@dataclass(frozen=True)
class Event:
    """`what` happened to `name`: `create`, `create failed`, `link`, `link failed`, `open`, `open failed`, `map`,
    `close`, `unlink`, `unlink failed` or `semaphore`.

    `at` is in seconds of the system's monotonic clock, which all processes share. `send` counts a run's sends from 0.
    `inode` says to which file the name led when it was made, because the same name may later lead to another file.
    `where` is the caller outside the standard library, as `file:line function`.
    """

    at: float
    pid: int
    role: str
    what: str
    name: str
    send: int | None = None
    bytes: int | None = None
    inode: int | None = None
    errno: int | None = None
    where: str | None = None

    @property
    def path(self) -> Path:
        """The entry in /dev/shm. (The library puts `sem.` before the name of a semaphore.)"""
        name = self.name.removeprefix("/")
        return SHM / (f"sem.{name}" if self.what == "semaphore" else name)

    def is_still_there(self) -> bool:
        """Whether the entry that this event made is there now. Another file with the same name does not count, and no
        file outside /dev/shm counts."""
        if self.path.parent != SHM or self.path.name == "..":
            return False
        try:
            return self.inode is not None and os.lstat(self.path).st_ino == self.inode
        except OSError:
            return False


FIELDS = {field.name for field in fields(Event)}


def lines(text: bytes) -> tuple[list[dict[str, Any]], int]:
    """The notes in a piece of a run's file, and the number of lines that cannot be read (a full disk cuts lines)."""
    notes, unreadable = [], 0
    for line in text.splitlines():
        try:
            notes.append(json.loads(line))
        except ValueError:
            unreadable += 1
    return notes, unreadable


def events(notes: Iterable[Mapping[str, Any]]) -> list[Event]:
    """The events among `notes`, in order of time."""
    found = [Event(**{key: note[key] for key in FIELDS & set(note)}) for note in notes if "name" in note]
    return sorted(found, key=lambda event: event.at)


def missing(notes: Iterable[Mapping[str, Any]], unreadable: int) -> int:
    """How many events are missing in a run's file: events that could not be written, and lines that cannot be read."""
    return unreadable + sum(note["count"] for note in notes if note["what"] == "lost")
