"""What the evidence says. The rules read the three texts of a dealt case, and nothing else."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from repro.lab.cases import CASES
from repro.lab.drill.shown import Shown

SHARED = {"crash", "contained"}  # several sends share one item
REMOVED = {"tracker", "remove-ipc"}  # somebody else removes the name
ONE_SEND = set(CASES) - SHARED - {"bootstrap-room"}
DEAD = {"crash", "missing-barrier", "tracker", "remove-ipc", "unshared", "descriptors"}  # the scheduler has died
ERRNO_2 = DEAD - {"descriptors"} | {"contained"}


@dataclass(frozen=True)
class Sign:
    """One thing that the evidence says, the cases that it speaks for, and the cases that it speaks against."""

    says: str
    speaks_for: Collection[str]
    against: Collection[str]


class Line(NamedTuple):
    """A line of the events: `who` does `what` to `name`, for `send` ("" if the act belongs to no send)."""

    who: str
    what: str
    name: str
    send: str


def signs(shown: Shown) -> list[Sign]:
    """All signs in these texts, in the order of RULES."""
    return [Sign(says, *verdict) for rule, *verdict in RULES for says in rule(shown)]


def named_by(shown: Shown) -> set[str]:
    """The names of the cases for which at least one sign speaks, and against which no sign speaks."""
    found = signs(shown)
    spoken_for = set().union(*(sign.speaks_for for sign in found))
    return spoken_for.difference(*(sign.against for sign in found))


def lines(shown: Shown, what: str = "") -> list[Line]:
    """The lines of the events; only those about `what`, if it is given."""
    cells = [re.split(r"  +", line.strip()) for line in shown.events.splitlines()]
    found = [Line(*[*row, ""][:4]) for row in cells if len(row) >= 3]
    return [line for line in found if what in ("", line.what)]


def _sent_again(shown: Shown) -> Iterator[str]:
    sent = Counter(line.name for line in lines(shown, "sends") if line.name.startswith("/"))
    yield from (f"{name} was sent {count} times" for name, count in sent.items() if count > 1)


def _unlinked_before(shown: Shown) -> Iterator[str]:
    """One scheduler opens, unlinks, and then fails to open one name."""
    for failed in lines(shown, "open failed")[:1]:
        if (failed.who, failed.name) in [(line.who, line.name) for line in lines(shown, "unlink")]:
            yield f"two opens of {failed.name} by the {failed.who}, with its own unlink between them"


def _unlinked_by_another_rank(shown: Shown) -> Iterator[str]:
    for failed in lines(shown, "open failed"):
        for line in lines(shown, "unlink"):
            if line.name == failed.name and line.who != failed.who and line.who.startswith("scheduler"):
                yield f"{line.who} unlinks {line.name}, and {failed.who} fails to open it"


def _rooms(shown: Shown) -> Iterator[str]:
    sent = Counter(line.name for line in lines(shown, "sends") if line.name.startswith("room"))
    yield from (f"{room} was sent {count} times" for room, count in sent.items() if count > 1)


def _nothing_made(shown: Shown) -> Iterator[str]:
    if not lines(shown, "create"):
        yield "no name was made in /dev/shm"


def _something_made(shown: Shown) -> Iterator[str]:
    if lines(shown, "create"):
        yield "names were made in /dev/shm"


def _sigbus(shown: Shown) -> Iterator[str]:
    yield from (line for line in shown.log.splitlines() if "killed by SIGBUS" in line)


def _never_opened(shown: Shown) -> Iterator[str]:
    if lines(shown, "create") and not lines(shown, "open") and not lines(shown, "open failed"):
        yield "a name was made, and nobody tried to open it"


def _left(shown: Shown) -> Iterator[str]:
    """A name that nobody has unlinked and that is there at the end."""
    taken = {line.name for line in lines(shown, "unlink")}
    for name in dict.fromkeys(line.name for line in lines(shown, "create")):
        if name not in taken and re.search(rf" {re.escape(name[1:])}$", shown.listing, re.MULTILINE):
            yield f"{name} is still in /dev/shm, and nobody has unlinked it"
            return


def _taken(shown: Shown) -> Iterator[str]:
    ours = {line.name for line in lines(shown, "create")}
    theirs = [line.name for line in lines(shown, "unlink") if line.who == "somebody else"]
    yield from (f"{name} was unlinked by no process of the server" for name in theirs if name in ours)


def _taken_from_others(shown: Shown) -> Iterator[str]:
    ours = {line.name for line in lines(shown, "create")}
    theirs = [line.name for line in lines(shown, "unlink") if line.who == "somebody else"]
    yield from (f"{name}, a name of another program, was unlinked, too" for name in theirs if name not in ours)


def _in_the_log(words: str, says: str) -> Callable[[Shown], Iterator[str]]:
    def rule(shown: Shown) -> Iterator[str]:
        if words in shown.log:
            yield says

    return rule


def _one_send(shown: Shown) -> Iterator[str]:
    if len({line.send for line in lines(shown) if line.send}) == 1:
        yield "there was one send only: n = 1"


def _not(*names: str) -> set[str]:
    """All cases but these."""
    return set(CASES) - set(names)


RULES = (
    (_sent_again, SHARED, _not(*SHARED)),
    (_unlinked_before, SHARED, _not(*SHARED)),
    (_one_send, (), _not(*ONE_SEND)),
    (_unlinked_by_another_rank, {"missing-barrier"}, _not("missing-barrier")),
    (_rooms, {"bootstrap-room"}, _not("bootstrap-room")),
    (_nothing_made, (), _not("bootstrap-room")),
    (_something_made, (), {"bootstrap-room"}),
    (_sigbus, {"small-shm"}, _not("small-shm")),
    (_never_opened, {"small-shm", "failed-send"}, _not("small-shm", "failed-send")),
    (_left, {"failed-send", "unshared", "descriptors"}, _not("failed-send", "unshared", "descriptors")),
    (_taken, REMOVED, _not(*REMOVED)),
    (_taken_from_others, {"remove-ipc"}, {"tracker"}),
    (
        _in_the_log("leaked shared_memory", "a resource tracker removed what it took for a leak"),
        {"tracker"},
        {"remove-ipc"},
    ),
    (_in_the_log("[Errno 2]", "a name could not be found (errno 2)"), ERRNO_2, _not(*ERRNO_2)),
    (_in_the_log("[Errno 24]", "no file descriptor was left (errno 24)"), {"descriptors"}, _not("descriptors")),
    (_in_the_log("hit an exception", "the scheduler died of an exception"), DEAD, _not(*DEAD)),
    (
        _in_the_log("Failed to materialize", "the scheduler told of a failure, and went on"),
        {"contained"},
        _not("contained"),
    ),
    (
        _in_the_log("the server lives", "the server lives"),
        {"contained", "failed-send"},
        DEAD | {"small-shm"},
    ),
)
