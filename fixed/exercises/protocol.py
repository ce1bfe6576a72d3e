"""The exercise of notebook 08: mend a protocol, so that no name is left in any order of events."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from fixed.exercises.exercise import PASSED, Exercise, Told, not_yet
from fixed.orders import explore, lanes, protocols
from fixed.orders.explorer import CANNOT_OPEN, LEFT, Explored
from fixed.orders.protocols import Step, sends_of
from repro.lab.limits import within

LIMIT = 10.0  # seconds for each n
SAMPLES = (2, 3)  # each n with which an attempt is explored
TEMPLATE = '''"""Exercise of notebook 08: mend the program of `one_segment_many_names`.

`mine(n)` is what the tokenizer does for a request with n samples, step by step. In some order of events a name is left
in /dev/shm. Change `mine` so that no order leaves one. Save this file: you are told the shortest order that is wrong.
"""

from fixed.orders.protocols import create, in_turn, link, register


def mine(n):
    steps = [register(0), create(0)]
    for name in range(1, n + 1):
        steps += [link(name), register(name)]
    return in_turn(n, lambda number: [] if number else steps, lambda number: n - number)
'''
UNEXPLORED = "it cannot be explored"
HINTS = {
    CANNOT_OPEN: "A send carries a name that is not there. Make each name before the first send that carries it.",
    LEFT: "Look for the name that is left. Which line made the name, and had the tracker heard of the name by then?",
}


def judge(mine: Callable[[int], Any]) -> Told:
    """Return the grade of `mine`: the shortest wrong order with a hint, or a pass with the number of segments that the
    program needs."""
    found: list[Explored] = []
    for n in SAMPLES:
        try:
            wrong, explored = within(LIMIT, partial(_explored, mine, n))
        except TimeoutError:
            return not_yet(UNEXPLORED, f"mine({n}) did not end within {LIMIT:g} s. Look for a loop that has no end.")
        except BaseException as error:  # SystemExit, too
            return not_yet(UNEXPLORED, f"mine({n}) raised {type(error).__name__}: {error}.")
        if wrong:
            return not_yet(UNEXPLORED, f"mine({n}): {wrong}")
        if not explored.right:
            hint = next((words for kind, words in HINTS.items() if explored.verdict.startswith(kind)), "")
            return not_yet("\n".join(lanes.told(explored)), hint)
        found.append(explored)
    orders, peak = sum(each.orders for each in found), max(each.peak for each in found)
    lines = [f"passed: right in all of {orders:,} orders", f"price: {peak} {'segment' if peak == 1 else 'segments'}"]
    hint = (
        "Each name is registered before the name is made." if peak == 1 else "Right, but `link` needs one segment only."
    )
    return Told(PASSED, "\n".join([*lines, f"hint: {hint}"]))


def _explored(mine: Callable[[int], Any], n: int) -> tuple[str, Explored | None]:
    """Explore `mine(n)`. Return what makes it no program, in words ("" for a program), and the result or None."""
    steps = mine(n)
    if not isinstance(steps, list) or not all(isinstance(step, Step) for step in steps):
        return "It has to return a list of steps, as `in_turn` does.", None
    sends = sorted(step.send for step in steps if step.what == "send")
    if sends != list(range(sends_of(n))):
        return f"It has to send the sends 0 to {sends_of(n) - 1}, each of them once; it sends {sends}.", None
    for place, step in enumerate(steps):
        out = sum(before.what == "send" for before in steps[:place])
        if step.what == "await" and step.send > out:
            return f"It waits for {step.send} answers after {out} sends: it would wait for ever.", None
    return "", explore(replace(protocols.REGISTERED_LATE, name="mine", program=mine), n=n, ranks=2)


PROTOCOL = Exercise("protocol", "08_every_order.ipynb", "mine", TEMPLATE, judge)
