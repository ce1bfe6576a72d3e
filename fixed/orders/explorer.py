"""Goes through every order that a machine allows: how many orders there are, what is wrong in some of them, and the
shortest wrong one of each kind.

The explorer visits each state once, breadth first. So the first wrong state of a kind is reached by a shortest order.
The orders are counted afterwards, from the last states backwards, without walking through each order.
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
MOST = 1_000_000  # states: they take half a minute and a gigabyte


@dataclass
class Explored:
    """The result of an exploration. `orders` is the number of orders from the first call to the last. `wrong` maps each
    kind of error to the shortest order that leads to it. `left` lists the faults after which names stay, as the design
    documents it; this is not an error. `peak` is the largest number of segments that had a name at the same time.
    `seconds` is the time that the exploration took. `labels` are the names of the sends, if not the usual ones."""

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
        """Whether every consumer is served in every order: each opens its name and reads its own pixels, and no process
        waits for ever. Names may be left."""
        return self.verdict == "right" or self.verdict.startswith(LEFT)

    @property
    def verdict(self) -> str:
        """`right`, or the worst kind of error (the first one in KINDS)."""
        return min(self.wrong, key=KINDS.index, default="right")

    @property
    def shortest(self) -> list[Act]:
        """The shortest order that leads to the worst error; empty if nothing is wrong."""
        return self.wrong.get(self.verdict, [])


def machine_of(protocol: Protocol) -> type[Machine] | type[PoolMachine]:
    """Return the class of machine that runs this protocol."""
    return PoolMachine if protocol.pool else Machine


def explore(protocol: Protocol, n: int = 2, ranks: int = 2, faults: Iterable[str] | None = None) -> Explored:
    """Go through every order of the protocol, with n samples and so many `ranks`, and return the result. `faults` are
    the names of the faults that may happen; None means all faults that the machine knows. Raises Refused for an unknown
    fault, and if there are more than MOST states."""
    kind = machine_of(protocol)
    faults = tuple(kind.knows if faults is None else faults)
    began = time.perf_counter()
    machine = kind(protocol, n, ranks, faults)
    explored = Explored(protocol, n, ranks, faults, labels=machine.labels)
    came_from: dict[State, tuple[State, Act] | None] = {machine.initial: None}
    following: dict[State, list[State]] = {}
    order = [machine.initial]
    for state in order:  # the list grows in the loop
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
            few = "give a smaller n, or fewer ranks"
            raise Refused(f"{protocol.name}, n = {n}, {ranks} ranks has more than {MOST:,} states", few)
    explored.states = len(order)
    explored.orders = _orders(machine.initial, following)
    explored.seconds = time.perf_counter() - began
    return explored


def _is_stuck(machine: Machine | PoolMachine, state: State, following: Sequence[State]) -> bool:
    """Whether nothing but a fault can happen next, although the run is not over."""
    goes_on = any(_is_well(after) or after[3] >= NO_NAME for after in following)
    return _is_well(state) and not goes_on and not machine.is_over(state)


def _is_well(state: State) -> bool:
    return state[3] == NONE


def _judge(explored: Explored, machine: Machine | PoolMachine, state: State, came_from: dict) -> None:
    """Record what is wrong with a state that no step leaves, unless an error of this kind is recorded already."""
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
    """A shortest order that leads to a state."""
    acts = []
    while came_from[state]:
        state, act = came_from[state]
        acts.append(act)
    return acts[::-1]


def _orders(initial: State, following: dict[State, list[State]]) -> int:
    """How many paths lead from the first state to a last one. No path meets a state twice, because each act happens
    once."""
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
