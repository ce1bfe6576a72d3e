"""The designs as programs of system calls: what the tokenizer does for one request, step by step.

A program is a list of steps, so that it can be read, changed and explored. A name is a number here. All designs run the
same scheduler, sglang's. So the consumers do the same in all of them: a consumer opens the name that it was sent, waits
for the other ranks, reads the pixels, and unlinks the name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

What = Literal["register", "create", "link", "send", "await", "unlink", "rewrite"]


class Step(NamedTuple):
    """One step of the tokenizer, in most cases with one `name`.

    register  tell the resource tracker of the name
    create    make the name, with a new segment
    link      make the name, for the segment of name 0
    unlink    remove the name
    send      send the name; `send` is the number of the send
    await     wait until `send` sends are answered
    rewrite   write the pixels of send number `send` into the segment of name 0, if this segment has no other name
    """

    what: What
    name: int = 0
    send: int = 0


def register(name: int) -> Step:
    return Step("register", name)


def create(name: int) -> Step:
    return Step("create", name)


def link(name: int) -> Step:
    return Step("link", name)


def unlink(name: int) -> Step:
    return Step("unlink", name)


def send(number: int, name: int) -> Step:
    return Step("send", name, number)


def answers(count: int) -> Step:
    return Step("await", send=count)


def rewrite(number: int) -> Step:
    return Step("rewrite", send=number)


Program = Sequence[Step]


LEASE, NO_MAPPINGS = "for a lease", "who has it open"
ONLY_BASE_NAME, LINK_COUNT, BASE_NAME = "for its only name", "the link count", "for its base name"


@dataclass(frozen=True)
class Pool:
    """A pool of so many `segments`, each under a base name. Before the tokenizer writes a segment again, it `asks`
    these questions about the segment, in turn. If an answer is no, the tokenizer tries another segment. `later` is the
    number of requests that come after the one with n samples. `maps`: a consumer copies nothing, and keeps a
    copy-on-write mapping until its request ends (from sglang 0.5.21 on).

    ONLY_BASE_NAME  the base name leads to the segment, and the link count is 1
    LINK_COUNT      the link count is 1
    BASE_NAME       the base name leads to the segment
    LEASE           the kernel grants a write lease: no other process has the segment open or mapped
    NO_MAPPINGS     no other process has the segment open (as if the kernel did not see mappings)
    """

    segments: int = 1
    asks: Sequence[str] = (ONLY_BASE_NAME, LEASE)
    later: int = 2
    maps: bool = False


@dataclass(frozen=True)
class Protocol:
    """A protocol of one design, or of several. `program(n)` is what the tokenizer does for a request with n samples.

    gives_back        if a send fails or the client goes away, the tokenizer removes the names that were not sent
    tidies            before sglang kills its process tree, the tokenizer removes its names
    consumer_unlinks  the scheduler unlinks each name that it is sent
    barrier           no rank unlinks a name before all ranks have opened it
    leaves            the faults after which names stay, as the design's own documentation says
    designs           the names of the designs that have this protocol
    pool              if there is one, there are several requests, and `program` is not used (`pool_machine`)
    """

    name: str
    program: Callable[[int], Program]
    gives_back: bool = False
    tidies: bool = False
    consumer_unlinks: bool = True
    barrier: bool = True
    leaves: Sequence[str] = ()
    designs: Sequence[str] = ()
    pool: Pool | None = None

    @property
    def usual_n(self) -> int:
        """The n that is enough for a wrong protocol to show its error: 2. With a pool it is 1, because there are
        several requests."""
        return 1 if self.pool else 2


def sends_of(n: int) -> int:
    """Return the number of sends of a request with n samples: the warm-up and n samples, or one send if n = 1."""
    return n + 1 if n > 1 else 1


def in_turn(n: int, before_send: Callable[[int], Program], name_of: Callable[[int], int]) -> list[Step]:
    """Return the program of a request with n samples. Before send number k come the steps `before_send(k)`, and the
    send carries the name `name_of(k)`. With n > 1, the first send is answered before the others leave, as in
    `_handle_batch_request`."""
    steps: list[Step] = []
    for number in range(sends_of(n)):
        steps += [*before_send(number), send(number, name_of(number))]
        if number == 0 and n > 1:
            steps.append(answers(1))
    return [*steps, answers(sends_of(n))]


def as_released(n: int) -> Program:
    """0.5.9 to 0.5.12.post1: the first send makes a segment, and every send carries its name."""
    return in_turn(n, lambda number: [] if number else [create(0), register(0)], lambda number: 0)


def segment_a_send(n: int) -> Program:
    """A segment for each send: upstream's fix, and three designs that differ from it only in where they copy."""
    return in_turn(n, lambda number: [create(number), register(number)], lambda number: number)


def many_names(n: int) -> Program:
    """One segment, many names. All names are made before the first send. Each name is registered with the tracker
    before it is made."""
    last = sends_of(n) - 1
    made = [register(0), create(0)]
    for name in range(1, last + 1):
        made += [register(name), link(name)]
    return in_turn(n, lambda number: [] if number else made, lambda number: last - number)


def many_names_registered_late(n: int) -> Program:
    """The first version of `many_names`: each name is registered with the tracker after it is made."""
    last = sends_of(n) - 1
    made = [create(0), register(0)]
    for name in range(1, last + 1):
        made += [link(name), register(name)]
    return in_turn(n, lambda number: [] if number else made, lambda number: last - number)


def owner_table(n: int) -> Program:
    """One segment, one name, and a tokenizer that unlinks it after the last answer."""
    first = [register(0), create(0)]
    return [*in_turn(n, lambda number: [] if number else first, lambda number: 0), unlink(0)]


def reused_by_link_count(n: int) -> Program:
    """A tempting design that is wrong: keep the segment under a base name (0), and write the next request into it as
    soon as the kernel counts no other name. Here, every send is a request of its own, with pixels of its own."""
    steps = [register(0), create(0)]
    for number in range(sends_of(n)):
        if number:
            steps.append(rewrite(number))
        steps += [register(number + 1), link(number + 1), send(number, number + 1), answers(number + 1)]
    return [*steps, unlink(0)]


CAREFUL = dict(gives_back=True, tidies=True, leaves=["all killed at once"])
UPSTREAMS = ["copies_at_both_points", "deepcopy", "pure_wrap", "segment_per_pickle"]
COUNTED = dict(consumer_unlinks=False, leaves=["failed send", "client gone"])
AS_RELEASED = Protocol("as released", as_released, designs=["as_released"])
SEGMENT_A_SEND = Protocol("a segment a send", segment_a_send, designs=UPSTREAMS)
OWNER_TABLE = Protocol("an owner table", owner_table, **COUNTED, designs=["reference_count"])
MANY_NAMES = Protocol("many names", many_names, **CAREFUL, designs=["one_segment_many_names"])
REGISTERED_LATE = Protocol("many names, registered late", many_names_registered_late, **CAREFUL)
NO_BARRIER = Protocol("many names, no barrier", many_names, barrier=False, **CAREFUL)
REUSED = Protocol("reused by link count", reused_by_link_count, **CAREFUL)


def warm_segments(name: str, *asks: str, designs: Sequence[str] = (), **more: Any) -> Protocol:
    """Return the protocol of a pool that uses a segment again if the answer to each of these questions is yes. `more`
    are further fields of Pool."""
    return Protocol(f"warm segments{name}", as_released, **CAREFUL, designs=designs, pool=Pool(asks=asks, **more))


MAPS = dict(maps=True, later=1)  # one later request only, because mappings make many more states
WARM = warm_segments("", ONLY_BASE_NAME, LEASE, designs=["warm_segments"])
WARM_MAPPED = warm_segments(", mapped", ONLY_BASE_NAME, LEASE, **MAPS)
WITHOUT_A_SAFEGUARD = (
    warm_segments(", no lease", ONLY_BASE_NAME),
    warm_segments(", no link count", BASE_NAME, LEASE),
    warm_segments(", no base name", LINK_COUNT, LEASE),
    warm_segments(", lease first", LEASE, ONLY_BASE_NAME),
    warm_segments(", maps unseen", ONLY_BASE_NAME, NO_MAPPINGS, **MAPS),
)
RIGHT = (MANY_NAMES, WARM, WARM_MAPPED)
PROTOCOLS = (
    *(AS_RELEASED, SEGMENT_A_SEND, OWNER_TABLE, REUSED, NO_BARRIER, REGISTERED_LATE, MANY_NAMES),
    *(*WITHOUT_A_SAFEGUARD, WARM, WARM_MAPPED),
)


def of_design(name: str) -> Protocol | None:
    """Return the protocol of the design of that name, or None if it has no known protocol."""
    return next((protocol for protocol in PROTOCOLS if name in protocol.designs), None)
