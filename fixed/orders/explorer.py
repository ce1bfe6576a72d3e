"""Every order that a machine allows: how many there are, what is wrong in some, and the shortest that is wrong.

It goes through the states breadth first, each once; so the first wrong state that it meets is reached by a shortest
order. The orders are counted afterwards, from the last states back, without walking through them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from fixed.orders.machine import NO_NAME, NO_PIXELS, NONE, Act, Machine, State
from fixed.orders.pool_machine import PoolMachine
from fixed.orders.protocols import Protocol
from repro.lab.refused import Refused

AFTER = {NONE: "", **{code: f" after: {name}" for name, code in PoolMachine.knows.items()}}
NAMES = {code: name for name, code in PoolMachine.knows.items()}
CANNOT_OPEN, OTHER_PIXELS, STUCK, LEFT = (
    "a consumer cannot open",
    "a consumer reads other pixels",
    "nobody can go on",
    "names are left",
)
KINDS = [kind + after for kind in (CANNOT_OPEN, OTHER_PIXELS, STUCK, LEFT) for after in AFTER.values()]  # worst first
MOST = 1_000_000  # states: half a minute, and a gigabyte


@dataclass
class Explored:
    """What came of it. `orders` is how many orders the model has from the first call to the last; `wrong` says, for
    each kind of wrong, the shortest order that leads there; `left` after which faults names stay, as the design's
    document says; `peak` how many segments had a name at a time; `labels` what the sends are called, if it is not as
    usual."""

    protocol: Protocol
    n: int
    ranks: int
    faults: tuple[str, ...]
    states: int = 0
    transitions: int = 0
    orders: int = 0
    peak: int = 0
    seconds: float = 0.0
    wrong: dict[str, list[Act]] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    labels: Sequence[str] = ()

    @property
    def right(self) -> bool:
        """Whether nothing is wrong in any order."""
        return not self.wrong

    @property
    def serves(self) -> bool:
        """Whether everybody is served in every order: each consumer opens its name and reads its own pixels, and
        nobody waits for ever. Names may be left."""
        return self.verdict == "right" or self.verdict.startswith(LEFT)

    @property
    def verdict(self) -> str:
        """`right`, or the worst that is wrong."""
        return min(self.wrong, key=KINDS.index, default="right")

    @property
    def shortest(self) -> list[Act]:
        """The shortest order that leads to the worst that is wrong; empty if nothing is."""
        return self.wrong.get(self.verdict, [])


def machine_of(protocol: Protocol) -> type[Machine] | type[PoolMachine]:
    """The machine that runs such a protocol."""
    return PoolMachine if protocol.pool else Machine


def explore(protocol: Protocol, n: int = 2, ranks: int = 2, faults: Iterable[str] | None = None) -> Explored:
    """Go through every order, with the faults of these names, or with all that the machine knows. Raises Refused for a
    fault that is none, and where there are too many states."""
    kind = machine_of(protocol)
    faults = tuple(kind.knows if faults is None else faults)
    began = time.perf_counter()
    machine = kind(protocol, n, ranks, faults)
    explored = Explored(protocol, n, ranks, faults, labels=machine.labels)
    came_from: dict[State, tuple[State, Act] | None] = {machine.initial: None}
    following: dict[State, list[State]] = {}
    order = [machine.initial]
    for state in order:  # it grows
        after = machine.successors(state)
        following[state] = [successor for _, successor in after]
        explored.transitions += len(after)
        explored.peak = max(explored.peak, machine.segments(state))
        for act, successor in after:
            if successor not in came_from:
                came_from[successor] = state, act
                order.append(successor)
        if not after or _is_stuck(machine, state, following[state]):
            _judge(explored, machine, state, came_from)
        if len(order) > MOST:
            raise Refused(f"{protocol.name}, n = {n}, {ranks} ranks has more than {MOST:,} states", "give fewer")
    explored.states = len(order)
    explored.orders = _orders(machine.initial, following)
    explored.seconds = time.perf_counter() - began
    return explored


def _is_stuck(machine: Machine | PoolMachine, state: State, following: Sequence[State]) -> bool:
    """Whether the run is not over, and only a fault could move it on."""
    goes_on = any(_is_well(after) or after[3] >= NO_NAME for after in following)
    return _is_well(state) and not goes_on and not machine.is_over(state)


def _is_well(state: State) -> bool:
    return state[3] == NONE


def _judge(explored: Explored, machine: Machine | PoolMachine, state: State, came_from: dict) -> None:
    """Enter what is wrong with a state from which nothing goes on, if it is the first of its kind."""
    _, names, _, fault, *_ = state
    kind = ""
    if fault >= NO_NAME:
        kind = (OTHER_PIXELS if fault >= NO_PIXELS else CANNOT_OPEN) + AFTER[fault % NO_NAME]
    elif _is_well(state) and not machine.is_over(state):
        kind = STUCK
    elif names and NAMES.get(fault) in machine.protocol.leaves:
        if NAMES[fault] not in explored.left:
            explored.left.append(NAMES[fault])
    elif names:
        kind = LEFT + AFTER[fault]
    if kind and kind not in explored.wrong:
        explored.wrong[kind] = _path(state, came_from)


def _path(state: State, came_from: dict) -> list[Act]:
    """A shortest order to a state."""
    acts = []
    while came_from[state]:
        state, act = came_from[state]
        acts.append(act)
    return acts[::-1]


def _orders(initial: State, following: dict[State, list[State]]) -> int:
    """How many paths lead from the first state to a last one. No state comes back: each act is done once."""
    count: dict[State, int] = {}
    waiting = [initial]
    while waiting:
        state = waiting[-1]
        missing = [successor for successor in following[state] if successor not in count]
        if missing:
            waiting += missing
        else:
            count[state] = sum(count[successor] for successor in following[state]) or 1
            waiting.pop()
    return count[initial]
