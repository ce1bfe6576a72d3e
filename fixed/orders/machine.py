"""The processes of one server as a machine: tokenizer, ranks, resource tracker, and sglang's kill of its process tree.
In each state, the machine tells which system call of which process may come next.

A state is a tuple of numbers: `(place, names, known, fault, version, *ranks)`.

place    the tokenizer's place in its program; negative when the server dies (TIDYING, DEAD)
names    the names that exist, a bit for each
known    the names that the resource tracker knows, a bit for each
fault    what has gone wrong
version  the send whose pixels the segment of name 0 holds
ranks    for each rank, how far it is: PHASES times the sends that it has done, plus the phase of the next one
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from fixed.orders.protocols import Protocol, Step
from repro.lab.refused import Refused

NONE, FAILED, GONE, RANK_KILLED, KILLED, GROUP_KILLED = range(6)  # the faults
NO_NAME, NO_PIXELS = 10, 20  # added to the fault: a consumer could not open its name, or read other pixels
FAULTS = {
    "failed send": FAILED,
    "client gone": GONE,
    "scheduler killed": RANK_KILLED,
    "tokenizer killed": KILLED,
    "all killed at once": GROUP_KILLED,
}
TOKENIZER, TRACKER = "tokenizer", "tracker"
TIDYING, DEAD = (
    -1,
    -1000,
)  # the tokenizer's place before sglang kills the tree, and after SIGKILL, each minus the number of sends so far
IDLE, OPENED, FORWARDED, READ, UNLINKED = range(5)  # the phases of a rank
PHASES = 5
OVER = -1  # in the place of how far a rank is: the rank is dead
State = tuple[int, ...]


class Act(NamedTuple):
    """One act: `who` did `what`. `name` is the number of the name, and `send` the number of the send (-1: none)."""

    who: str
    what: str
    name: int = -1
    send: int = -1


def codes(faults: Iterable[str], known: Mapping[str, int]) -> set[int]:
    """Return the numbers of these faults. `known` maps each known fault to its number. Raises Refused for an unknown
    fault."""
    faults = list(faults)
    if unknown := [fault for fault in faults if fault not in known]:
        raise Refused(f"{unknown[0]!r} is no fault", f"give some of: {', '.join(known)}")
    return {known[fault] for fault in faults}


class Machine:
    """The machine of a protocol, with n samples and so many `ranks`. `faults` are those of FAULTS that may happen, at
    most one in a run. Raises Refused for an unknown fault."""

    knows: Mapping[str, int] = FAULTS
    labels: Sequence[str] = ()  # names of the sends, if not the usual ones: `warm-up`, `sample 1`, ...

    def __init__(self, protocol: Protocol, n: int, ranks: int, faults: Iterable[str] = ()) -> None:
        self.protocol, self.n, self.ranks = protocol, n, ranks
        self.faults = codes(faults, self.knows)
        self.program = list(protocol.program(n))
        self.sends = sum(step.what == "send" for step in self.program)
        self.end = len(self.program)
        self.sent = [0]  # for each place of the program: how many sends have left before it
        self.name_of: dict[int, int] = {}  # send -> its name
        for step in self.program:
            self.sent.append(self.sent[-1] + (step.what == "send"))
            if step.what == "send":
                self.name_of[step.send] = step.name
        self._no_ranks = [OVER] * ranks
        self._code = [*self.program, Step("end")]
        self._out = [*self.sent]
        self._after_fault = {place: self._gives_back(place) for place in range(self.end)}
        self.initial: State = (0, 0, 0, NONE, 0, *[0] * ranks)

    def segments(self, state: State) -> int:
        """Return how many segments have a name in this state."""
        names = state[1]
        linked = any(step.what == "link" for step in self.program)
        return int(names > 0) if linked else names.bit_count()

    def answered(self, state: State) -> int:
        """Return how many sends rank 0 has answered."""
        return state[5] // PHASES

    def is_over(self, state: State) -> bool:
        """Whether a run without a fault has come to its end: the program is done, and rank 0 has answered each send."""
        return self._code[state[0]].what == "end" and self.answered(state) == self.sends

    def successors(self, state: State) -> list[tuple[Act, State]]:
        """Return each act that may come next, with the state after it. The list is empty when the run is over."""
        place, _, _, fault, _, *ranks = state
        if fault >= NO_NAME:
            return []
        found: list[tuple[Act, State]] = []
        if DEAD < place <= TIDYING:
            found.append(self._before_the_tree_kill(state))
        elif place >= 0:
            if self._code[place].what != "end":
                found += self._of_the_tokenizer(state)
            if fault == RANK_KILLED:
                found.append((Act(TOKENIZER, "learns of the death"), (TIDYING - self.out(place), *state[1:])))
        for rank in range(self.ranks):
            if ranks[rank] != OVER and (after := self._of_a_rank(state, rank)):
                found.append(after)
        if place <= DEAD:
            found += self._after_the_tokenizer(state)
        elif fault == NONE and self._code[place].what != "end":
            found += self._kills(state)
        return found

    def out(self, place: int) -> int:
        """Return how many sends have left when the tokenizer is at this place."""
        if place >= 0:
            return self._out[place]
        return (DEAD if place <= DEAD else TIDYING) - place

    def _of_the_tokenizer(self, state: State) -> Iterable[tuple[Act, State]]:
        place, names, known, fault, version, *ranks = state
        what, name, send = step = self._code[place]
        act, bit = Act(TOKENIZER, *step), 1 << name
        if what == "register":
            yield act._replace(send=-1), (place + 1, names, known | bit, fault, version, *ranks)
        elif what in ("create", "link"):
            yield act._replace(send=-1), (place + 1, names | bit, known, fault, version, *ranks)
        elif what == "unlink":
            yield act._replace(send=-1), (place + 1, names & ~bit, known & ~bit, fault, version, *ranks)
        elif what == "send":
            yield act, (place + 1, *state[1:])
            if fault == NONE and FAILED in self.faults:
                yield act._replace(what="send fails"), (self._after_fault[place], names, known, FAILED, version, *ranks)
        elif what == "await":
            if ranks[0] // PHASES >= send:
                yield Act(TOKENIZER, "gets the answer", -1, send - 1), (place + 1, *state[1:])
            if fault == NONE and GONE in self.faults:
                yield (
                    Act(TOKENIZER, "client goes away"),
                    (self._after_fault[place], names, known, GONE, version, *ranks),
                )
        elif what == "rewrite" and names == 1:  # no name but name 0 exists
            yield act._replace(name=0), (place + 1, names, known, fault, send, *ranks)
        elif what == "rewrite":
            yield Act(TOKENIZER, "writes a segment of its own", -1, send), (self.end, *state[1:])

    def _of_a_rank(self, state: State, rank: int) -> tuple[Act, State] | None:
        place, names, known, fault, version, *ranks = state
        send, phase = divmod(ranks[rank], PHASES)
        if send == self.sends:
            return None
        name = self.name_of[send]
        who, bit = f"rank {rank}", 1 << name
        what, after = "", phase + 1
        if phase == IDLE:
            if not self._has_arrived(state, rank, send):
                return None
            what = "open"
            if not names & bit:
                what, after = "open fails", None
                fault += NO_NAME * (fault not in (RANK_KILLED, KILLED))  # after these faults, the server dies anyway
            elif rank or self.ranks == 1:
                after = FORWARDED
        elif phase == OPENED:
            what = "forward"
        elif phase == FORWARDED:
            if self.protocol.barrier and any(far < send * PHASES + OPENED for far in ranks):
                return None
            what = "read" if version <= send else "reads other pixels"
            fault += NO_PIXELS * (version > send)
        elif phase == READ:
            what = "unlink" if self.protocol.consumer_unlinks else "close"
            if self.protocol.consumer_unlinks:
                names, known = names & ~bit, known & ~bit
            after = UNLINKED if rank == 0 else PHASES
        elif phase == UNLINKED:
            what, after = "answer", PHASES
        ranks[rank] = OVER if after is None else send * PHASES + after
        named = name if what not in ("answer", "forward") else -1
        return Act(who, what, named, send), (place, names, known, fault, version, *ranks)

    def _has_arrived(self, state: State, rank: int, send: int) -> bool:
        return self.out(state[0]) > send if rank == 0 else state[5] >= send * PHASES + FORWARDED

    def _kills(self, state: State) -> Iterable[tuple[Act, State]]:
        place, names, known, _, version, *ranks = state
        if RANK_KILLED in self.faults:
            for rank in range(self.ranks):
                after = [*ranks[:rank], OVER, *ranks[rank + 1 :]]
                yield Act(f"rank {rank}", "is killed"), (place, names, known, RANK_KILLED, version, *after)
        dead = DEAD - self.out(place)
        if KILLED in self.faults:
            yield Act(TOKENIZER, "is killed"), (dead, names, known, KILLED, version, *ranks)
        if GROUP_KILLED in self.faults:
            yield Act(TOKENIZER, "all are killed at once"), (dead, names, 0, GROUP_KILLED, version, *self._no_ranks)

    def _before_the_tree_kill(self, state: State) -> tuple[Act, State]:
        place, names, known, fault, version, *ranks = state
        if self.protocol.tidies and names:
            name = (names & -names).bit_length() - 1
            return Act(TOKENIZER, "unlink", name), (place, names & ~(1 << name), known, fault, version, *ranks)
        return Act(TOKENIZER, "kills the tree"), (DEAD - self.out(place), names, 0, fault, version, *self._no_ranks)

    def _after_the_tokenizer(self, state: State) -> Iterable[tuple[Act, State]]:
        """The ranks die with the tokenizer. Then the tracker removes the names that it knows. (If all processes were
        killed at once, the tracker is dead, and `known` is empty.)"""
        place, names, known, fault, version, *ranks = state
        if any(far != OVER for far in ranks):
            yield Act("ranks", "are killed, too"), (*state[:5], *self._no_ranks)
        elif names & known:
            name = (names & known & -(names & known)).bit_length() - 1
            yield Act(TRACKER, "unlink", name), (place, names & ~(1 << name), known, fault, version, *ranks)

    def _gives_back(self, place: int) -> int:
        """Add the steps that follow a fault at this place: they remove the names that were not sent. Return the place
        of the first of them."""
        made = [step.name for step in self.program[:place] if step.what in ("create", "link")]
        away = {step.name for step in self.program[:place] if step.what == "send"}
        failed = [step.name for step in self.program[place : place + 1] if step.what == "send"]
        removed = failed + [name for name in made if name not in away and name not in failed]
        steps = [Step("unlink", name) for name in removed] if self.protocol.gives_back else []
        self._code += [*steps, Step("end")]
        self._out += [self.sent[place]] * (len(steps) + 1)
        return len(self._code) - len(steps) - 1
