"""What the reader gets of a case: a log, the events, and `ls -l /dev/shm`. Nothing in it differs from run to run."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from repro.lab.cases import Found
from repro.lab.teaching import transcript
from repro.lab.terminal import aligned

FEW = 3  # of many lines that differ only in the name, so many are shown
OWN = re.compile(r'^ +File "[^"]*(?:recorder|scheduler_side)\.py", .*\n +…\n', re.MULTILINE)  # the lab's own frames
TRACKER = re.compile(r"^\S* UserWarning: (resource_tracker: .* at shutdown).*\n(?: +warnings\.warn.*\n)?", re.MULTILINE)
ENTRY = re.compile(r"^(\S+) +\d+ +\S+ +\S+ +(\d+) .* (\S+)$")
Row = tuple[str, str, str, str]  # who does what to which name, for which send
CLIENT = {
    "crashed": "client: no answer, and the server is gone",
    "hung": "client: no answer",
    "survived": "client: {answers} answers",
    "refused": "client: an error, and the server lives",
}


@dataclass(frozen=True)
class Shown:
    """The three texts."""

    log: str
    events: str
    listing: str

    def __str__(self) -> str:
        parts = {"the log": self.log, "the events": self.events, "$ ls -l /dev/shm": self.listing}
        return "\n\n".join(f"{head}\n{_indented(text)}" for head, text in parts.items())


def shown(found: Found) -> Shown:
    """What the reader gets of this case. Names in /dev/shm are numbered, in the order of the events."""
    names: dict[str, str] = {}
    rows = [(who, what, transcript.numbered(which, names), send) for who, what, which, send in _short(_in_order(found))]
    log = transcript.numbered("\n".join(_log(found)), names)
    listing = transcript.numbered(found.listing, names)
    return Shown(log, "\n".join(aligned(rows)) if rows else "none", "\n".join(_listing(listing)))


def _log(found: Found) -> Iterator[str]:
    verdict = found.verdict
    yield CLIENT[verdict.outcome].format(answers=len(verdict.answers or []))
    if " killed by " in (verdict.error or ""):
        yield f"supervisor: {verdict.error}"
    if verdict.outcome == "refused" and not found.log:
        yield f"tokenizer: {verdict.error}: {verdict.message}"
    text = re.sub(r'"[^"]*/(?=sglang/)', '"…/', transcript.shown(TRACKER.sub(r"\1\n", found.log)))
    yield from OWN.sub("", text).strip().splitlines()


def _in_order(found: Found) -> list[Row]:
    """The events, without their times. A send comes before the acts of the scheduler for this send. An unlink that only
    the kernel saw comes before the open that fails because of it."""
    labels = found.labels
    rows = [
        (event.role, event.what, event.name, labels[event.send] if event.send is not None else "")
        for event in found.events
        if event.what not in ("map", "close")
    ]
    for label, carried in _sends(found):
        _insert(
            rows,
            ("tokenizer", "sends", carried, label),
            lambda row, label=label: row[0] != "tokenizer" and row[3] == label,
        )
    for name in found.taken_by_others():
        _insert(rows, ("somebody else", "unlink", name, ""), lambda row: row[1] == "open failed")
    return rows


def _insert(rows: list[Row], row: Row, comes_before: Callable[[Row], bool]) -> None:
    """Put `row` before the first of `rows` for which `comes_before` is true; at the end if there is none."""
    rows.insert(next((place for place, other in enumerate(rows) if comes_before(other)), len(rows)), row)


def _sends(found: Found) -> Iterator[tuple[str, str]]:
    """The label of each send that carries something, and what it carries: names, or a bootstrap room."""
    for label, names, room in zip(found.labels, found.names, found.rooms, strict=False):
        if names or room is not None:
            yield label, ", ".join(names[:FEW]) or f"room {room}"


def _short(rows: Iterable[Row]) -> Iterator[Row]:
    """The rows, shortened. Of many consecutive rows that differ only in the name, the first FEW are kept, and one row
    says how many more there are."""
    for (role, what, send), group in groupby(rows, key=lambda row: (row[0], row[1], row[3])):
        same = list(group)
        many = len(same) > 3 * FEW
        yield from same[: FEW if many else None]
        if many:
            yield role, what, f"and {len(same) - FEW:,} more names", send


def _listing(text: str) -> Iterator[str]:
    lines = [ENTRY.sub(r"\1 \2 \3", line) for line in text.splitlines() if not line.startswith("total")]
    lines.sort(key=lambda line: [int(part) if part.isdecimal() else 0 for part in re.split(r"(\d+)", line)])
    yield from lines[:FEW] or ["total 0"]
    if len(lines) > FEW:
        yield f"and {len(lines) - FEW:,} more names"


def _indented(text: str) -> str:
    return "\n".join(f"  {line}".rstrip() for line in text.splitlines())
