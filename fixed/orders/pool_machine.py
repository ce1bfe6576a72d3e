"""The machine of a design that uses its segments again: several requests, one after another, and a pool of segments.

Every request has pixels of its own. Before each request, the tokenizer asks the pool for a segment. The requests come
from different clients, so the tokenizer does not wait for one's answer before it sends the next one. (The orders in
which it waits are among these orders, too.) There is one more fault: a stranger removes a base name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from fixed.orders.machine import (
    FAILED,
    FAULTS,
    FORWARDED,
    GONE,
    GROUP_KILLED,
    IDLE,
    KILLED,
    NO_NAME,
    NO_PIXELS,
    NONE,
    OPENED,
    OVER,
    PHASES,
    RANK_KILLED,
    READ,
    TOKENIZER,
    TRACKER,
    UNLINKED,
    Act,
    codes,
)
from fixed.orders.protocols import BASE_NAME, LEASE, LINK_COUNT, ONLY_BASE_NAME, Pool, sends_of

STRANGER, BASE_NAME_GONE = "a stranger", 6
NOTHING = -1  # in `given`: no segment yet; in `holds`: no pixels


class Place(NamedTuple):
    """Where the tokenizer is: at which `stage` of which request, with which segment, and at which `step` of the stage.
    `out` is the number of sends that have left."""

    stage: str
    request: int = 0
    segment: int = 0
    step: int = 0
    out: int = 0


class State(NamedTuple):
    """One state. The first four parts are those of every machine's state (`machine`). `holds`: for each segment of the
    pool, the request whose pixels it holds. `given`: for each request, its segment. `ranks`: how far each rank is."""

    place: Place
    names: int
    known: int
    fault: int
    holds: tuple[int, ...]
    given: tuple[int, ...]
    ranks: tuple[int, ...]
    mapped: tuple[int, ...]  # for each rank: a bit for each send whose mapping it still has
    unsent: int = 0  # a bit for each send that will never be sent


After = tuple[Act, State]


class PoolMachine:
    """The machine of a protocol with a pool, with so many `ranks`: first a request with n samples, then requests with
    one sample each. The numbers of names are those of the segments for the base names, and then one for each send.
    `faults` are those of `knows` that may happen, at most one in a run. Raises Refused for an unknown fault."""

    knows: Mapping[str, int] = {**FAULTS, "base name removed": BASE_NAME_GONE}

    def __init__(self, protocol: Any, n: int, ranks: int, faults: Iterable[str] = ()) -> None:
        self.protocol, self.n, self.ranks = protocol, n, ranks
        self.faults = codes(faults, self.knows)
        self.pool: Pool = protocol.pool
        counts = [sends_of(n), *[1] * self.pool.later]
        self.request_of = [request for request, count in enumerate(counts) for _ in range(count)]
        self.sends = len(self.request_of)
        self.sends_in = [[send for send, of in enumerate(self.request_of) if of == one] for one in range(len(counts))]
        self.labels = [self._label(send) for send in range(self.sends)]
        nowhere = (NOTHING,) * len(counts)
        place = self._next_request(-1, 0)
        self.initial = State(place, 0, 0, NONE, (NOTHING,) * self.pool.segments, nowhere, (0,) * ranks, (0,) * ranks)

    def _label(self, send: int) -> str:
        request = self.request_of[send]
        sample = send - self.sends_in[request][0]
        if len(self.sends_in[request]) == 1:
            return f"request {request + 1}"
        return f"request {request + 1}, {f'sample {sample}' if sample else 'warm-up'}"

    def segments(self, state: State) -> int:
        """Return how many segments have a name in this state."""
        pooled = sum(self._names_of(state, segment) > 0 for segment in range(self.pool.segments))
        own = [request for request, segment in enumerate(state.given) if segment == self.pool.segments]
        return pooled + sum(any(state.names & self._bit(send) for send in self.sends_in[request]) for request in own)

    def answered(self, state: State) -> int:
        """Return how many sends rank 0 has answered."""
        return state.ranks[0] // PHASES

    def is_over(self, state: State) -> bool:
        """Whether a run without a fault has come to its end: no request waits, and rank 0 has answered each send."""
        return state.place.stage == "over" and self.answered(state) == self.sends

    def successors(self, state: State) -> list[After]:
        """Return each act that may come next, with the state after it. The list is empty when the run is over."""
        stage = state.place.stage
        if state.fault >= NO_NAME:
            return []
        found: list[After] = []
        if stage == "tidies":
            found.append(self._before_the_tree_kill(state))
        elif stage not in ("over", "dead"):
            found += getattr(self, f"_{stage}")(state)
        if state.fault == RANK_KILLED and stage not in ("over", "dead", "tidies"):
            tidies = state.place._replace(stage="tidies")
            found.append((Act(TOKENIZER, "learns of the death"), state._replace(place=tidies)))
        for rank in range(self.ranks):
            if state.ranks[rank] != OVER:
                found += self._of_a_rank(state, rank)
        if stage == "dead":
            found += self._after_the_tokenizer(state)
        elif stage != "over" and state.fault == NONE:
            found += self._faults(state)
        return found

    # The tokenizer, a stage at a time.

    def _next_request(self, request: int, out: int) -> Place:
        """Where the request after this one begins: at the first question about the first segment."""
        last = request + 1 == len(self.sends_in)
        return Place("drains", out=out) if last else Place("asks", request + 1, out=out)

    def _asks(self, state: State) -> Iterator[After]:
        """The tokenizer asks one question about the segment. After a yes, the next question follows, or the writing.
        After a no, the next segment follows, or a segment of the request's own."""
        place = state.place
        if state.holds[place.segment] == NOTHING:
            yield from self._creates(state)
            return
        question = self.pool.asks[place.step] if self.pool.asks else ""
        words = f"{question}: {'free' if (free := self._is_free(state, question)) else 'in use'}"
        if free:
            last = place.step + 1 >= len(self.pool.asks)
            after = place._replace(stage="writes", step=0) if last else place._replace(step=place.step + 1)
        elif place.segment + 1 < self.pool.segments:
            after = place._replace(segment=place.segment + 1, step=0)
        else:
            after = place._replace(stage="links", segment=self.pool.segments, step=0)
        yield Act(TOKENIZER, f"asks {words}", place.segment), state._replace(place=after)

    def _is_free(self, state: State, question: str) -> bool:
        segment = state.place.segment
        if question == BASE_NAME:
            return bool(state.names >> segment & 1)
        if question == LINK_COUNT:
            return self._names_of(state, segment) == 1
        if question == ONLY_BASE_NAME:
            return bool(state.names >> segment & 1) and self._names_of(state, segment) == 1
        users = self._readers(state, segment)
        return not any(users) if question == LEASE else not users[0]

    def _readers(self, state: State, segment: int) -> tuple[bool, bool]:
        """Whether any rank has the segment open, and whether any rank has only a mapping of it."""
        of = [state.given[request] for request in self.request_of]
        opened = mapped = False
        for far, mappings in zip(state.ranks, state.mapped, strict=True):
            opened |= far % PHASES in (OPENED, FORWARDED) and far != OVER and of[far // PHASES] == segment
            mapped |= any(mappings >> send & 1 and given == segment for send, given in enumerate(of))
        return opened, mapped

    def _creates(self, state: State) -> Iterator[After]:
        place, bit = state.place, 1 << state.place.segment
        if not state.known & bit:
            yield Act(TOKENIZER, "register", place.segment), state._replace(known=state.known | bit)
        else:
            after = place._replace(stage="writes", step=0)
            holds = _with(state.holds, place.segment, place.request)
            yield (
                Act(TOKENIZER, "create", place.segment),
                state._replace(place=after, names=state.names | bit, holds=holds),
            )

    def _writes(self, state: State) -> Iterator[After]:
        place = state.place
        given = _with(state.given, place.request, place.segment)
        holds = _with(state.holds, place.segment, place.request)
        after = state._replace(place=place._replace(stage="links"), holds=holds, given=given)
        yield Act(TOKENIZER, "write", place.segment, self.sends_in[place.request][0]), after

    def _links(self, state: State) -> Iterator[After]:
        """The tokenizer makes a name for each send of the request; `step` counts these names. If the base name is gone,
        or the pool has no segment to give, the request gets a segment of its own."""
        place = state.place
        sends = self.sends_in[place.request]
        name = self._name(sends[place.step])
        own = place.segment == self.pool.segments
        if not state.known >> name & 1:
            yield Act(TOKENIZER, "register", name), state._replace(known=state.known | 1 << name)
        elif not own and not state.names >> place.segment & 1:
            yield from self._gives_up_the_segment(state)
        else:
            given = _with(state.given, place.request, place.segment)
            step = place.step + 1
            after = place._replace(step=step) if step < len(sends) else place._replace(stage="sends", step=0)
            what = "create" if own and place.step == 0 else "link"
            yield (
                Act(TOKENIZER, what, name),
                state._replace(place=after, names=state.names | 1 << name, given=given),
            )

    def _gives_up_the_segment(self, state: State) -> Iterator[After]:
        """The base name is gone, so no link can be made. The links that were made before are removed, one in each
        step."""
        place, sends = state.place, self.sends_in[state.place.request]
        made = [self._name(send) for send in sends if state.names & self._bit(send)]
        if made:
            bit = 1 << made[0]
            yield (
                Act(TOKENIZER, "unlink", made[0]),
                state._replace(names=state.names & ~bit, place=place._replace(step=0)),
            )
        else:
            own = place._replace(segment=self.pool.segments, step=0)
            yield Act(TOKENIZER, "link fails", self._name(sends[0])), state._replace(place=own)

    def _sends(self, state: State) -> Iterator[After]:
        place = state.place
        sends = self.sends_in[place.request]
        send = sends[place.step]
        act = Act(TOKENIZER, "send", self._name(send), send)
        further = place._replace(step=place.step + 1, out=place.out + 1)
        after = further if further.step < len(sends) else self._next_request(place.request, further.out)
        yield act, state._replace(place=after)
        if state.fault == NONE:
            unsent = place._replace(stage="gives_back")
            if FAILED in self.faults:
                yield act._replace(what="send fails"), state._replace(place=unsent, fault=FAILED)
            if GONE in self.faults and place.step:
                yield Act(TOKENIZER, "client goes away"), state._replace(place=unsent, fault=GONE)

    def _gives_back(self, state: State) -> Iterator[After]:
        """The tokenizer removes the names that were not sent. Then comes the next request, because the server lives."""
        place = state.place
        sends = self.sends_in[place.request][place.step :]
        left = [self._name(send) for send in sends if state.names & self._bit(send)]
        if left and self.protocol.gives_back:
            names, known = state.names & ~(1 << left[0]), state.known & ~(1 << left[0])
            yield Act(TOKENIZER, "unlink", left[0]), state._replace(names=names, known=known)
        else:
            unsent = sum(1 << send for send in sends)
            after = self._next_request(place.request, sends[-1] + 1)
            yield Act(TOKENIZER, "ends the request"), state._replace(place=after, unsent=unsent)

    def _drains(self, state: State) -> Iterator[After]:
        """The end: the tokenizer removes the base names that are still there."""
        base = [segment for segment in range(self.pool.segments) if state.names >> segment & 1]
        if base:
            names = state.names & ~(1 << base[0])
            yield Act(TOKENIZER, "unlink", base[0]), state._replace(names=names, known=state.known & ~(1 << base[0]))
        elif self._somebody_works(state):
            return
        else:
            yield Act(TOKENIZER, "ends"), state._replace(place=state.place._replace(stage="over"))

    def _somebody_works(self, state: State) -> bool:
        """Whether a rank has still something to do, or is dead, which the tokenizer has still to learn."""
        return any(self._far(state, rank) != state.place.out * PHASES for rank in range(self.ranks))

    def _far(self, state: State, rank: int) -> int:
        """How far a rank is. A rank does not wait for a send that will never be sent."""
        far = state.ranks[rank]
        while far != OVER and far % PHASES == IDLE and state.unsent >> far // PHASES & 1:
            far += PHASES
        return far

    # The ranks.

    def _of_a_rank(self, state: State, rank: int) -> Iterator[After]:
        mappings = state.mapped[rank]
        if mappings:
            send = (mappings & -mappings).bit_length() - 1
            after = state._replace(mapped=_with(state.mapped, rank, mappings & ~(1 << send)))
            yield self._reads(after, rank, send, "read")
        send, phase = divmod(self._far(state, rank), PHASES)
        if send == self.sends:
            return
        name, who = self._name(send), f"rank {rank}"
        what, next_phase, named = "", phase + 1, name
        if phase == IDLE:
            arrived = state.place.out > send if rank == 0 else state.ranks[0] >= send * PHASES + FORWARDED
            if not arrived:
                return
            what = "open"
            if not state.names >> name & 1:
                # after the faults RANK_KILLED and KILLED, the server dies anyway
                fault = state.fault + NO_NAME * (state.fault not in (RANK_KILLED, KILLED))
                after = state._replace(ranks=_with(state.ranks, rank, OVER), fault=fault)
                yield Act(who, "open fails", name, send), after
                return
            if rank or self.ranks == 1:
                next_phase = FORWARDED
        elif phase == OPENED:
            what, named = "forward", -1
        elif phase == FORWARDED:
            if self.protocol.barrier and any(other < send * PHASES + OPENED for other in state.ranks):
                return
            state = state._replace(ranks=_with(state.ranks, rank, send * PHASES + READ))
            if self.pool.maps:
                mapped = _with(state.mapped, rank, mappings | 1 << send)
                yield Act(who, "map", name, send), state._replace(mapped=mapped)
            else:
                yield self._reads(state, rank, send, "read")
            return
        elif phase == READ:
            what = "unlink"
            names, known = state.names & ~(1 << name), state.known & ~(1 << name)
            state = state._replace(names=names, known=known)
            next_phase = UNLINKED if rank == 0 else PHASES
        else:
            what, next_phase, named = "answer", PHASES, -1
        ranks = _with(state.ranks, rank, send * PHASES + next_phase)
        yield Act(who, what, named, send), state._replace(ranks=ranks)

    def _reads(self, state: State, rank: int, send: int, what: str) -> After:
        """The rank reads the pixels, and then it has the segment no longer open or mapped."""
        request = self.request_of[send]
        segment = state.given[request]
        if segment < self.pool.segments and state.holds[segment] != request:
            what, state = "reads other pixels", state._replace(fault=state.fault + NO_PIXELS)
        return Act(f"rank {rank}", what, self._name(send), send), state

    # What goes wrong, and what comes of it.

    def _faults(self, state: State) -> Iterator[After]:
        if RANK_KILLED in self.faults:
            for rank in range(self.ranks):
                ranks, mapped = _with(state.ranks, rank, OVER), _with(state.mapped, rank, 0)
                after = state._replace(ranks=ranks, mapped=mapped, fault=RANK_KILLED)
                yield Act(f"rank {rank}", "is killed"), after
        dead = state.place._replace(stage="dead")
        if KILLED in self.faults:
            yield Act(TOKENIZER, "is killed"), state._replace(place=dead, fault=KILLED)
        if GROUP_KILLED in self.faults:
            after = self._without_ranks(state)._replace(place=dead, fault=GROUP_KILLED, known=0)
            yield Act(TOKENIZER, "all are killed at once"), after
        if BASE_NAME_GONE in self.faults:
            for segment in range(self.pool.segments):
                if state.names >> segment & 1:
                    after = state._replace(names=state.names & ~(1 << segment), fault=BASE_NAME_GONE)
                    yield Act(STRANGER, "unlink", segment), after

    def _before_the_tree_kill(self, state: State) -> After:
        if self.protocol.tidies and state.names:
            lowest = state.names & -state.names
            return Act(TOKENIZER, "unlink", lowest.bit_length() - 1), state._replace(names=state.names & ~lowest)
        after = self._without_ranks(state)._replace(place=state.place._replace(stage="dead"), known=0)
        return Act(TOKENIZER, "kills the tree"), after

    def _after_the_tokenizer(self, state: State) -> Iterator[After]:
        """The ranks die with the tokenizer. Then the tracker removes the names that it knows. (If all processes were
        killed at once, the tracker is dead, and `known` is empty.)"""
        left = state.names & state.known
        if any(far != OVER for far in state.ranks):
            yield Act("ranks", "are killed, too"), self._without_ranks(state)
        elif left:
            lowest = left & -left
            yield Act(TRACKER, "unlink", lowest.bit_length() - 1), state._replace(names=state.names & ~lowest)

    def _without_ranks(self, state: State) -> State:
        return state._replace(ranks=(OVER,) * self.ranks, mapped=(0,) * self.ranks)

    # Names.

    def _name(self, send: int) -> int:
        return self.pool.segments + send

    def _bit(self, send: int) -> int:
        return 1 << self._name(send)

    def _names_of(self, state: State, segment: int) -> int:
        """The segment's link count: the number of its names."""
        sends = [send for send, request in enumerate(self.request_of) if state.given[request] == segment]
        return (state.names >> segment & 1) + sum(state.names >> self._name(send) & 1 for send in sends)


def _with(values: tuple[int, ...], place: int, value: int) -> tuple[int, ...]:
    return (*values[:place], value, *values[place + 1 :])
