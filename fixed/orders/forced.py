"""Many orders of the model, forced on sglang's functions, two at a time."""

from __future__ import annotations

import ctypes
import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

from fixed.designs import Design
from fixed.orders.covering import covering
from fixed.orders.holder import Differs, Holder, forced
from fixed.orders.machine import Act, Machine, State
from repro.lab.lifted import make_request
from repro.lab.upstream.release import Release

PR_SET_CHILD_SUBREAPER = 36


@dataclass
class Forced:
    """What came of many orders: how many were run, how many steps of the model they took together, of how many; what
    was not as in the model, a line each; and the time in seconds."""

    orders: int
    transitions: int
    of: int
    differs: list[str]
    seconds: float


def force(
    machine: Machine,
    design: Design,
    release: str,
    *,
    most: int | None = None,
    seed: int = 0,
    kind: type[Holder] = Holder,
) -> Forced:
    """Run a covering set of orders for real, two at a time; or, by lot, at most so many of them. `kind` is what holds
    the turnstile of a run."""
    orders = covering(machine)
    every = {arrow for order in orders for arrow in _arrows(machine, order)}
    if most and most < len(orders):
        orders = random.Random(seed).sample(orders, most)
    began = time.monotonic()
    warm(release)
    begin = dict(initializer=_begin, initargs=(machine, design, release, kind))  # forked, so nothing of it is pickled
    with ProcessPoolExecutor(2, get_context("fork"), **begin) as workers:
        differs = [told for told in workers.map(_difference, orders, chunksize=4) if told]
    taken = {arrow for order in orders for arrow in _arrows(machine, order)}
    return Forced(len(orders), len(taken), len(every), differs, time.monotonic() - began)


def _begin(*held: object) -> None:
    global _held
    adopt()
    _held = held


def _difference(order: Sequence[Act]) -> str:
    """In a worker: what was not as in the model; "" if nothing."""
    machine, design, release, kind = _held
    try:
        forced(machine, order, design, release, kind=kind)
    except Differs as differs:
        return str(differs)
    return ""


def _arrows(machine: Machine, order: Sequence[Act]) -> Iterator[tuple[State, Act]]:
    state = machine.initial
    for act in order:
        yield state, act
        state = dict(machine.successors(state))[act]


def adopt() -> None:
    """Let orphans below this process come to it, so that it can wait for them."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def warm(release: str) -> None:
    """Import and lift once, before anything is forked. Raises Refused if there is no such release."""
    made = Release.of(release)
    for part in (made.mm_utils, made.tokenizer_manager, made.process_tree):
        assert part
    make_request(shape=(2, 4))
