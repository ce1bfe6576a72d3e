"""A set of orders that together take every step of a machine, from state to state. The set is small, so that all of its
orders can be run for real."""

from __future__ import annotations

from collections import deque

from fixed.orders.machine import Act, Machine, State

Arrow = tuple[State, Act]


def covering(machine: Machine) -> list[list[Act]]:
    """Return orders that together take every step of the machine. Each order leads from the first state to a last one,
    and prefers steps that no earlier order took. Among these, steps without a fault come first, because a fault soon
    ends an order."""
    following = _following(machine)
    missing = {(state, act) for state, after in following.items() for act, _ in after}
    before: dict[State, list[State]] = {state: [] for state in following}
    for state, after in following.items():
        for _, successor in after:
            before[successor].append(state)
    orders = []
    while missing:
        far = _distances({state for state, _ in missing}, before)
        orders.append(_walk(machine.initial, following, missing, far))
    return orders


def _following(machine: Machine) -> dict[State, list[tuple[Act, State]]]:
    found = {machine.initial: machine.successors(machine.initial)}
    waiting = [machine.initial]
    for state in waiting:  # the list grows in the loop
        for _, successor in found[state]:
            if successor not in found:
                found[successor] = machine.successors(successor)
                waiting.append(successor)
    return found


def _distances(goals: set[State], before: dict[State, list[State]]) -> dict[State, int]:
    """Return, for each state that can reach a goal, the least number of steps to one."""
    far, waiting = dict.fromkeys(goals, 0), deque(goals)
    while waiting:
        state = waiting.popleft()
        for other in before[state]:
            if other not in far:
                far[other] = far[state] + 1
                waiting.append(other)
    return far


def _walk(state: State, following: dict, missing: set[Arrow], far: dict[State, int]) -> list[Act]:
    order = []
    while following[state]:
        fresh = [each for each in following[state] if (state, each[0]) in missing]
        towards = [each for each in following[state] if each[1] in far]
        if fresh:
            act, successor = min(fresh, key=lambda each: (each[1][3], each[1]))  # no fault first
        else:
            act, successor = min(towards or following[state], key=lambda each: (far.get(each[1], 0), each[1]))
        missing.discard((state, act))
        order.append(act)
        state = successor
    return order
