"""Forces many orders of the model on sglang's functions, two at a time."""

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
    """The result of many forced orders. `orders` were run; together they took `transitions` of the `of` steps that the
    model has. `differs` lists the differences from the model, a line each. `seconds` is the time."""

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
    """Run a covering set of orders for real, two at a time, and return the result. With `most`, run at most so many
    orders of the set, drawn at random from `seed`. `kind` is the class that holds the turnstile of a run. Raises
    Refused if the release is not available."""
    orders = covering(machine)
    every = {arrow for order in orders for arrow in _arrows(machine, order)}
    if most and most < len(orders):
        orders = random.Random(seed).sample(orders, most)
    began = time.monotonic()
    warm(release)
    begin = dict(initializer=_begin, initargs=(machine, design, release, kind))  # workers are forked: no pickling
    with ProcessPoolExecutor(2, get_context("fork"), **begin) as workers:
        differs = [told for told in workers.map(_difference, orders, chunksize=4) if told]
    taken = {arrow for order in orders for arrow in _arrows(machine, order)}
    return Forced(len(orders), len(taken), len(every), differs, time.monotonic() - began)


def _begin(*held: object) -> None:
    global _held
    adopt()
    _held = held


def _difference(order: Sequence[Act]) -> str:
    """In a worker: force one order. Return how the run differed from the model, or ""."""
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
    """Make this process the parent of orphaned processes below it (a subreaper), so that it can wait for them."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def warm(release: str) -> None:
    """Import and lift once, before the workers are forked. Raises Refused if there is no such release."""
    made = Release.of(release)
    for part in (made.mm_utils, made.tokenizer_manager, made.process_tree):
        assert part
    make_request(shape=(2, 4))
