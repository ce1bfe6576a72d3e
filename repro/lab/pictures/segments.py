"""What the names of a run lead to: each name's state, and the letter of the segment that is behind the name."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from string import ascii_uppercase
from typing import Any

from repro.lab.evidence.event import NAMING


@dataclass(eq=False)
class Segment:
    """A name and the segment behind it, while the events are read. `named` says whether the name is there. `held`
    counts, for each pid, how often the process holds the segment. `letter` stands for the segment with this
    `inode`. Two names may lead to one segment."""

    name: str
    inode: int | None = None
    letter: str = ""
    named: bool = False
    size: str = ""
    held: Counter[int] = field(default_factory=Counter)

    @property
    def state(self) -> str:
        """`named`; `mapped`, if the name is gone and a process still holds the segment; else `gone`."""
        return "named" if self.named else "mapped" if self.held.total() else "gone"

    def apply(self, what: str, pid: int, known: bool) -> None:
        """Apply one act. A process holds the segment from `create` or `open` (first the descriptor, then the mapping)
        to `close`. If the run's record has no `map` and no `close` at all, `known` is False, and no process is shown as
        holding the segment."""
        if what in ("create", "link", "open", "unlink"):
            self.named = what != "unlink"
        if what == "close":
            self.held[pid] = max(self.held[pid] - 1, 0)
        elif known and (what in ("create", "open") or (what == "map" and not self.held[pid])):
            self.held[pid] += 1


def segment_of(event: Any, segments: list[Segment]) -> Segment:
    """The segment that the event is about: the newest one with this name, or a new one, which is added to
    `segments`."""
    found = _of_this_name(event, segments)
    _find_letter(segments, found, event)
    return found


def _of_this_name(event: Any, segments: list[Segment]) -> Segment:
    same = [segment for segment in segments if segment.name == event.name]
    if not same or (event.what in NAMING and not same[-1].named):
        segments.append(Segment(event.name))
        return segments[-1]
    mapped = [segment for segment in same if segment.held[event.pid]]
    return mapped[0] if event.what == "close" and mapped else same[-1]


def _find_letter(segments: list[Segment], segment: Segment, event: Any) -> None:
    """Give the segment its letter, if it has none: the letter of another name with the same inode, else a new letter. A
    created segment always gets a new letter, because the number of an inode that is gone may be used again."""
    if segment.letter or event.inode is None:
        return
    segment.inode = event.inode
    same = [other.letter for other in segments if other.letter and other.inode == event.inode]
    if same and event.what != "create":
        segment.letter = same[-1]
    else:
        place = len({other.letter for other in segments if other.letter})
        segment.letter = ascii_uppercase[place % 26] + str(place // 26 or "")
