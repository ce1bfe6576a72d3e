"""Is it right, and does it clean up? One battery for every design and every mutant.

Two judges look at runs: the lab's verdict, and who sent what. A run shows one order of events. So there is a third
judge (`fixed.orders`): it looks at every order. For a design with a known protocol it adds a fault at any moment; for
any other, such as a mutant, it takes the protocol from the record of a run, and adds none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from fixed.designs import Design
from fixed.orders import Explored, explore
from fixed.orders import judged as third
from fixed.orders.protocols import of_design
from repro.lab.lifted import Fault, Run, make_request, run
from repro.lab.lifted.request import FEATURES
from repro.lab.upstream.source import INSTALLED
from repro.lab.upstream.standin_data import TokenizedGenerateReqInput

PROMPTS, ITEMS, N = 2, 2, 3
SHAPE = (8, 16)  # the battery asks what is right, not what it costs


@dataclass
class Health:
    """What came of the battery. `crashed` is the error of which the scheduler died; `wrong` says, a line each, what was
    not right where it did not; `mutates` whether the source requests lost their features, `shares` whether a name was
    sent twice (harmless only where no consumer unlinks it); `leaked` counts the names left, by situation. `explored` is
    what came of every order of events; None where there is nothing to explore, for nothing was shared."""

    crashed: str | None = None
    wrong: list[str] = field(default_factory=list)
    mutates: bool = False
    shares: bool = False
    leaked: dict[str, int] = field(default_factory=dict)
    explored: Explored | None = None

    @property
    def correct(self) -> bool:
        """Every sample answered, in order, with the right bytes; every name unlinked exactly once. Where the design
        was explored, everybody is served in every order."""
        return not self.crashed and not self.wrong and (self.explored is None or self.explored.serves)

    @property
    def orders(self) -> str | None:
        """The verdict on every order of events."""
        return self.explored and self.explored.verdict


def examine(design: Design, release: str = INSTALLED) -> Health:
    """The health of a design: every kind of feature, several prompts with several items, two tensor-parallel ranks;
    then a send that fails and a client that goes away, early and late; and every order of events. Raises Refused if it
    does not plug in there."""
    health = Health(leaked={"success": 0, "failed send": 0, "client gone": 0}, explored=every_order(design, release))
    for fields in [{"feature": feature} for feature in FEATURES] + [{"ranks": 2}]:
        judge(health, _run(design, release, **fields))
        if health.crashed:
            break
    for at in (0, N):
        health.leaked["failed send"] += _left(_run(design, release, fault=Fault("fail", send=at)))
        health.leaked["client gone"] += _left(_run(design, release, fault=Fault("cancel", send=at)))
    design.drain()
    return health


def every_order(design: Design, release: str = INSTALLED) -> Explored | None:
    """What comes of the design in every order of events, with a fault at any moment. If it has no known protocol: what
    comes of a run's own events, without a fault. None if nothing was shared."""
    if protocol := of_design(design.name):
        return explore(protocol, protocol.usual_n)
    judged = third.judge(_run(design, release))
    return judged and judged.worst


def _run(design: Design, release: str, feature: str = "tensor", **fields: object) -> Run:
    return run(requests(feature), n=N, release=release, fix=design, **fields)


def requests(feature: str) -> list[TokenizedGenerateReqInput]:
    """Two prompts with two items each, every feature with bytes of its own."""
    return [
        make_request(feature, items=ITEMS, shape=SHAPE, rid=f"request-{i}", seed=10 * i, dtype="float32")
        for i in range(PROMPTS)
    ]


def _left(result: Run) -> int:
    return len(result.verdict.leftovers.segments)


def judge(health: Health, result: Run) -> None:
    """Add what one run says."""
    faults = result.faults()
    health.mutates |= result.mutated
    health.shares |= any(" was sent " in fault for fault in faults)
    if result.verdict.outcome == "crashed":
        health.crashed = result.verdict.error
        return
    health.leaked["success"] += _left(result)
    told = ("the source request was mutated", " was sent ", " was left ")  # elsewhere in this account
    wrong = [fault for fault in faults if not any(words in fault for words in told)]
    if result.verdict.answers != expected(result):
        wrong.append(f"the answers are {result.verdict.answers}")
    health.wrong += [words for words in dict.fromkeys(wrong) if words not in health.wrong]


def expected(result: Run) -> Sequence[str]:
    """The answers in order: each prompt's samples."""
    return [f"sample {k} {prompt}" for prompt in "ab"[:PROMPTS] for k in range(1, result.verdict.n + 1)]
