"""Tokenizer | the kernel's name table | scheduler: who did what to which name. Each act is one row, and time runs
downwards.

Events become rows. Each row has the state of every name after its act. The text and the drawing are both made from the
rows. Rows have no times, no pids and no random names: names are numbered in the order in which they appear, and the
segments behind them have letters. Names with the same letter are hard links to one segment. The overlap of two
processes differs from run to run. So the rows are grouped by send, unless the caller asks for the order of time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from errno import errorcode
from itertools import accumulate, groupby
from typing import Any, Literal

from repro.lab.pictures.segments import Segment, segment_of

Order = Literal["send", "time"]
ACTS = (
    *("create", "create failed", "link", "link failed", "open", "open failed"),
    *("map", "close", "unlink", "unlink failed"),
)
LEGEND = {"named": "named", "mapped": "unlinked but mapped", "gone": "gone", "failed": "failed"}
GLYPHS = {"named": "|", "mapped": ":", "gone": " ", "failed": "x"}
NOTHING = "no shared-memory name was touched"


@dataclass
class Row:
    """What one process did to one name. `segment` is the number of the name, from 0. `error` says how the act failed
    ("" if it did not). `states` has the state of every name after the act. `letter` is the letter of the segment
    behind the name."""

    role: str
    send: str
    segment: int
    words: str
    error: str
    where: str
    size: str = ""
    after: float = 0.0  # seconds since the first act of the run
    letter: str = ""
    states: list[str] = field(default_factory=list)

    @property
    def left(self) -> bool:
        """Whether the act is the tokenizer's: then it is drawn on the left."""
        return self.role.startswith("tokenizer")

    @property
    def failure(self) -> str:
        """The error and its place: `FileNotFoundError (errno 2) at mm_utils.py:1564 __setstate__`."""
        return " at ".join(filter(None, (self.error, self.where)))


def rows(events: Iterable[Any], labels: Sequence[str] = (), order: Order = "send") -> list[Row]:
    """The acts as rows, in this `order`. Events that are not one of `ACTS` are left out. To save rows, a `map` shares
    the row of its `open` or `create`. A `close` that follows at once in the same function shares this row, too, if the
    name is still there."""
    events = _ordered([event for event in events if event.what in ACTS], order)
    known = any(event.what in ("map", "close") for event in events)
    several = len({event.role for event in events if not event.role.startswith("tokenizer")}) > 1
    segments: list[Segment] = []
    found: list[Row] = []
    newest: dict[int, Row] = {}  # the newest row of each process, by pid
    first = min((event.at for event in events), default=0.0)
    for event in events:
        segment = segment_of(event, segments)
        segment.apply(event.what, event.pid, known)
        row = newest.get(event.pid)
        here = row and row is found[-1] and _function(row.where) == _function(event.where)
        joins = event.what == "map" or (event.what == "close" and segment.named and here)
        if joins and row and row.segment == segments.index(segment) and not row.error:
            row.words += f", {event.what}"
        else:
            row = newest[event.pid] = _row(event, segments.index(segment), labels, several)
            row.after = event.at - first
            row.states = [each.state for each in segments]
            found.append(row)
        if event.bytes is not None and not segment.size:
            segment.size = row.size = _size(event.bytes)  # shown once, in the first row that knows it
    for row in found:
        row.letter = segments[row.segment].letter
        row.states += ["gone"] * (len(segments) - len(row.states))
    return found


def text(events: Iterable[Any], labels: Sequence[str] = (), *, order: Order = "send") -> str:
    """The rows as aligned plain text, with one column for each name in the middle, and a legend below."""
    found = rows(events, labels, order)
    if not found:
        return NOTHING
    names = " ".join(str(number % 10) for number in range(1, len(found[0].states) + 1))
    table = [("", "tokenizer", names, "scheduler")]
    if known := letters(found):
        row = [f"{known.get(place, '?'):.1}" for place in range(len(found[0].states))]
        table.append(("", "segment", " ".join(row), ""))
    for send, acts in groupby(found, key=lambda row: row.send):
        for first, row in enumerate(acts):
            glyphs = [GLYPHS[state] for state in row.states]
            if row.error:
                glyphs[row.segment] = GLYPHS["failed"]
            act = row.words + f" ({row.size})" * bool(row.size) + f": {row.failure}" * bool(row.error)
            left, right = (act, "") if row.left else ("", act)
            table.append(("" if first else send, left, " ".join(glyphs), right))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table]
    legend = "   ".join(f"{GLYPHS[state]} {LEGEND[state]}" for state in ("named", "mapped", "failed"))
    return "\n".join(
        [*lines, "", f"the kernel's name table, in the middle:   {legend}   (blank) gone", *note(found, order)]
    )


def note(found: list[Row], order: Order) -> list[str]:
    """The lines below a picture: one for each segment with several names, and one if the order of the sends is not the
    order of time. The list may be empty."""
    sends = [send for send, _ in groupby(row.send for row in found)]
    apart = order == "send" and len(sends) == len(set(sends)) > 2  # two sends cannot overlap: the first is awaited
    return [*_links(found), *["The sends are shown one after the other; in a run they may overlap."] * apart]


def letters(found: Iterable[Row]) -> dict[int, str]:
    """The letter of the segment behind each name. The keys are the names' numbers, from 0. A name without a recorded
    inode has no letter."""
    return {row.segment: row.letter for row in found if row.letter}


def _links(found: Iterable[Row]) -> Iterator[str]:
    """One line for each segment that has several names."""
    known = letters(found)
    for letter in dict.fromkeys(known.values()):
        *names, last = sorted(place + 1 for place, other in known.items() if other == letter)
        if names:
            yield f"Names {', '.join(map(str, names))} and {last} are hard links to one segment, {letter}."


def _ordered(events: list[Any], order: Order) -> list[Any]:
    """The events by time, or grouped by send. Grouping gives the same picture in every run. Grouping is used only if
    the events of each single name keep their order; otherwise the events are sorted by time."""
    timed = sorted(events, key=lambda event: event.at)
    if order == "time":
        return timed
    sends = list(accumulate((event.send for event in timed), lambda last, send: last if send is None else send))
    ranks = [send or 0 for send in sends]
    by_send = [timed[place] for place in sorted(range(len(timed)), key=ranks.__getitem__)]
    kept = all(
        [event for event in timed if event.name == name] == [event for event in by_send if event.name == name]
        for name in {event.name for event in timed}
    )
    return by_send if kept else timed


def _row(event: Any, segment: int, labels: Sequence[str], several: bool) -> Row:
    send = "" if event.send is None else labels[event.send] if event.send < len(labels) else f"send {event.send}"
    act, _, failed = event.what.partition(" ")
    words = f"{act} name {segment + 1}"
    if several and not event.role.startswith("tokenizer"):
        words = f"{event.role}: {words}"
    error = _error(event.errno) if failed else ""
    return Row(event.role, send, segment, words, error, event.where or "")


def _function(where: str | None) -> str:
    return (where or "").rpartition(" ")[2]


def _error(errno: int | None) -> str:
    """The exception that Python raises for this `errno`: `FileNotFoundError (errno 2)`."""
    if errno is None:
        return "failed"
    kind = type(OSError(errno, "")).__name__
    return f"{kind} (errno {errno})" if kind != "OSError" else f"OSError ({errorcode.get(errno, f'errno {errno}')})"


def _size(count: int) -> str:
    scale = min(max(len(str(count)) - 1, 0) // 3, 3)
    return f"{count / 1000**scale:.3g} {('bytes', 'kB', 'MB', 'GB')[scale]}"
