"""`python -m fixed.orders`: goes through every order of events of every design, with every fault, and shows the
shortest order in which something is wrong."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence

from fixed.designs import DESIGNS, ONE_SEGMENT, Design
from fixed.orders import lanes
from fixed.orders.explorer import Explored, explore
from fixed.orders.machine import Machine
from fixed.orders.pool_machine import PoolMachine
from fixed.orders.protocols import PROTOCOLS, RIGHT, Protocol, of_design
from repro.lab.refused import Refused
from repro.lab.terminal import OneLineParser, aligned, command, count
from repro.lab.upstream.source import INSTALLED

LARGEST = 4  # samples, and ranks
LARGEST_POOL = (1, 1), (1, 2), (1, 3), (2, 1), (2, 2)  # (n, ranks) with a pool: its requests make many states
HEADS = ("protocol", "n", "ranks", "states", "transitions", "orders", "segments", "seconds", "verdict")


@command(name="fixed.orders")
def main(words: Sequence[str] | None = None) -> int:
    """Return the exit status. 0: every explored protocol of RIGHT is right, and no other one is. 1: this is not so, or
    with --forced, a real run differs from the model. 2: bad usage. 130: interrupted."""
    try:
        arguments = parse(words)
        if arguments.forced is not None:
            return for_real(arguments)
        found = explored(arguments)
    except KeyboardInterrupt:
        return 130
    print(json.dumps([as_dict(each) for each in found], indent=2) if arguments.json else "\n".join(told(found)))
    return int(any(each.right is not (each.protocol in RIGHT) for each in found))


def for_real(arguments: Namespace) -> int:
    """Force orders of one design on sglang's functions, and print the result. Return 0, or 1 if a run differs from the
    model. Raises Refused for a design that cannot be run for real, and for more than one n or number of ranks."""
    name = arguments.protocol or ONE_SEGMENT.name
    design = {each.name: each for each in (Design("as_released"), *DESIGNS)}.get(name)
    protocol = of_design(name)
    if design and protocol.pool:
        return _pool(design, protocol, arguments)
    if design is None or not protocol.consumer_unlinks:
        way_out = f"give --protocol {ONE_SEGMENT.name}, or another design whose scheduler unlinks names"
        raise Refused(f"--forced cannot run {name!r}", way_out)
    (n, *more), (ranks, *others) = arguments.n or [2], arguments.ranks or [2]
    if more or others or n == 1:
        raise Refused("--forced takes only one n, of 2 or more, and one number of ranks", "give --n 2 --ranks 2")
    machine = Machine(protocol, n, ranks, Machine.knows if arguments.fault is None else _faults(arguments))
    return _told(design, machine, arguments)


def _pool(design: Design, protocol: Protocol, arguments: Namespace) -> int:
    """As `for_real`, for a design with a pool."""
    from fixed.orders.pool_holder import FAULTS, PoolHolder, Undrained

    (n, *more), (ranks, *others) = arguments.n or [1], arguments.ranks or [1]
    faults = FAULTS if arguments.fault is None else _faults(arguments)
    if more or others or n > 1 or set(faults) - set(FAULTS):
        known = f"give --n 1 --ranks 1, and for --fault some of: {', '.join(map(repr, FAULTS))}"
        raise Refused("with a pool, --forced takes only n = 1, one number of ranks, and some of the faults", known)
    return _told(design, Undrained(protocol, n, ranks, faults), arguments, kind=PoolHolder)


def _told(design: Design, machine: Machine, arguments: Namespace, **more: object) -> int:
    """Force the machine's orders, print the result, and return the exit status."""
    from fixed.orders.forced import force

    done = force(machine, design, INSTALLED, most=arguments.forced or None, seed=arguments.seed, **more)
    if arguments.json:
        print(json.dumps(vars(done), indent=2))
    else:
        ranks = f"{machine.ranks} rank{'s' * (machine.ranks > 1)}"
        print(f"{design.name}, n = {machine.n}, {ranks}, on sglang's functions between real processes:")
        print(f"{done.orders} orders took {done.transitions:,} of the model's {done.of:,} steps, {done.seconds:.0f} s")
        print("\n".join(done.differs) or "each act, each failure and each name that was left is as in the model")
    return int(bool(done.differs))


def explored(arguments: Namespace) -> list[Explored]:
    """Explore what the command line asks for. By default, every protocol is explored once, and those of RIGHT also with
    other numbers of samples and ranks. Raises Refused for an unknown protocol or fault."""
    faults = _faults(arguments)
    chosen = [protocol for protocol in PROTOCOLS if arguments.protocol in (None, protocol.name, *protocol.designs)]
    if not chosen:
        known = [name for protocol in PROTOCOLS for name in (protocol.name, *protocol.designs)]
        raise Refused(f"no protocol {arguments.protocol!r}", f"give one of: {', '.join(known)}")
    found = []
    for protocol in chosen:
        once = protocol.usual_n, 2
        scales = [(n, rank) for n in arguments.n or once[:1] for rank in arguments.ranks or once[1:]]
        if protocol in RIGHT and not (arguments.n or arguments.ranks or arguments.protocol):
            scales += [scale for scale in _scales(protocol) if scale != once]
        found += [explore(protocol, n, rank, faults) for n, rank in scales]
    return found


def _scales(protocol: Protocol) -> list[tuple[int, int]]:
    if protocol.pool:
        return [(n, ranks) for n, ranks in LARGEST_POOL if ranks < 3 or not protocol.pool.maps]
    return [(n, ranks) for n in range(1, LARGEST + 1) for ranks in range(1, LARGEST + 1)]


def told(found: Sequence[Explored]) -> Iterator[str]:
    """Yield the table, line by line; then, for each protocol that is wrong, the shortest order in which it is wrong."""
    rows = [HEADS]
    for each in found:
        scale = each.n, each.ranks, f"{each.states:,}", f"{each.transitions:,}", _power(each.orders), each.peak
        rows.append((each.protocol.name, *scale, f"{each.seconds:.2f}", each.verdict))
    yield from aligned(rows, right=slice(1, 8))
    states, seconds = sum(each.states for each in found), sum(each.seconds for each in found)
    yield f"{states:,} states, {_power(sum(each.orders for each in found))} orders, {seconds:.1f} s"
    for protocol in {each.protocol.name: each.protocol for each in found}.values():
        faults = {fault for each in found if each.protocol is protocol for fault in each.left}
        if faults and protocol.designs:
            yield f"{protocol.name} leaves names after: {', '.join(sorted(faults))}. Its documentation says so."
    shown = {each.protocol.name: each for each in reversed(found) if not each.right}
    for each in reversed(shown.values()):
        yield ""
        yield from lanes.told(each)


def as_dict(explored: Explored) -> dict[str, object]:
    """Return one exploration as plain data, for --json."""
    same = "n", "ranks", "faults", "states", "transitions", "orders", "peak", "seconds", "verdict", "left"
    acts = {kind: [act._asdict() for act in order] for kind, order in explored.wrong.items()}
    told = {name: getattr(explored, name) for name in same}
    return {"protocol": explored.protocol.name, "designs": list(explored.protocol.designs), **told, "wrong": acts}


def _faults(arguments: Namespace) -> list[str] | None:
    """The faults that the command line names; None, for all faults that a machine knows, if it names none."""
    if arguments.fault is None:
        return None
    return [] if arguments.fault == ["none"] else arguments.fault


def _power(number: int) -> str:
    return f"{number:,}" if number < 1_000_000 else f"{number:.1e}".replace("e+", "e")


def parse(words: Sequence[str] | None) -> Namespace:
    """Return the parsed command line. Raises Refused for bad usage."""
    parser = OneLineParser(prog="python -m fixed.orders", description=__doc__)
    parser.add_argument("--protocol", help="one protocol, by its name or by a design's (default: all)")
    parser.add_argument(
        "--n",
        type=count,
        nargs="+",
        help="how many samples (default: 2, or 1 with a pool; more for those that are right)",
    )
    parser.add_argument(
        "--ranks",
        type=count,
        nargs="+",
        help="how many tensor-parallel ranks (default: 2; more for those that are right)",
    )
    parser.add_argument(
        "--fault", nargs="+", help=f"none, or some of: {', '.join(map(repr, PoolMachine.knows))} (default: all)"
    )
    parser.add_argument(
        "--forced",
        type=count,
        nargs="?",
        const=0,
        metavar="ORDERS",
        help="force orders on sglang's functions: a set that takes each step of the model, or at most ORDERS of these",
    )
    parser.add_argument("--seed", type=int, default=0, help="for the draw of --forced ORDERS (default: 0)")
    parser.add_argument("--json", action="store_true", help="print a list and nothing else")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
