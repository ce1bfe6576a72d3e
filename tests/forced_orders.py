"""`python -m tests.forced_orders`: single orders, forced on sglang's functions, in a process of their own. For each
order, it prints as JSON the difference from the model ("" if there is none)."""

from __future__ import annotations

import json
from unittest import mock

from fixed.designs import COPIES, ONE_SEGMENT, WARM_SEGMENTS, Design, segment_pool, shm_names
from fixed.mutants import AS_RELEASED
from fixed.orders import FAULTS, Machine, explore, protocols
from fixed.orders.covering import covering
from fixed.orders.forced import adopt, warm
from fixed.orders.holder import Differs, forced
from fixed.orders.pool_holder import PoolHolder, Undrained
from fixed.orders.protocols import Protocol
from repro.lab.upstream.source import INSTALLED

SHORTEST = {
    "as released": (protocols.AS_RELEASED, AS_RELEASED),
    "a segment a send": (protocols.SEGMENT_A_SEND, COPIES),
    "no barrier": (protocols.NO_BARRIER, ONE_SEGMENT),
}


def difference(protocol: Protocol, order: list, design: Design) -> str:
    """The difference from the model."""
    try:
        forced(Machine(protocol, 2, 2, FAULTS), order, design, INSTALLED)
    except Differs as differs:
        return str(differs)
    return ""


def linked_late(first: str) -> str:
    """An earlier version of the design: the tracker is told after the name was made."""
    name = shm_names.new_name()
    shm_names.os.link(f"/dev/shm/{first}", f"/dev/shm/{name}")
    shm_names.resource_tracker.register(f"/{name}", shm_names.KIND)
    return name


POOLS = {
    "the pool asks for the lease first": lambda segment: (
        segment_pool.nobody_else_has_it_open(segment) and segment_pool.only_the_base_name_is_left(segment)
    ),
    "the pool does not ask for the lease": lambda segment: segment_pool.only_the_base_name_is_left(segment),
}


def of_a_pool() -> str:
    """What was not as in the model, in an order in which a segment is used again."""
    pool = Undrained(protocols.WARM, 1, 1)
    again = next(order for order in covering(pool) if any(act.what.endswith("for a lease: free") for act in order))
    try:
        forced(pool, again, WARM_SEGMENTS, INSTALLED, kind=PoolHolder)
    except Differs as differs:
        return str(differs)
    return ""


def main() -> None:
    """Force the shortest wrong order of three protocols, and then orders that differ from the model."""
    adopt()
    warm(INSTALLED)
    told = {name: difference(one, explore(one).shortest, design) for name, (one, design) in SHORTEST.items()}
    calm = covering(Machine(protocols.MANY_NAMES, 2, 2))[0]
    with mock.patch("fixed.designs.one_segment_many_names.linked_to", linked_late):
        told["the code links first"] = difference(protocols.MANY_NAMES, calm, ONE_SEGMENT)
    late = covering(Machine(protocols.REGISTERED_LATE, 2, 2))[0]
    told["the model links first"] = difference(protocols.REGISTERED_LATE, late, ONE_SEGMENT)
    with mock.patch("fixed.designs.one_segment_many_names.Batch.close"):
        gone = next(
            order
            for order in covering(Machine(protocols.MANY_NAMES, 2, 2, ["client gone"]))
            if order[-1].what != "client goes away" and any(act.what == "client goes away" for act in order)
        )
        told["the code gives nothing back"] = difference(protocols.MANY_NAMES, gone, ONE_SEGMENT)
    with (
        mock.patch("fixed.orders.holder.Holder.requests", side_effect=RuntimeError("no such request")),
        mock.patch("fixed.orders.holder.LIMIT", 1.0),
    ):
        told["the tokenizer raises an error"] = difference(protocols.MANY_NAMES, calm, ONE_SEGMENT)
    for what, is_free in POOLS.items():
        with mock.patch("fixed.designs.segment_pool.is_free", is_free):
            told[what] = of_a_pool()
    print(json.dumps(told))


if __name__ == "__main__":
    main()
