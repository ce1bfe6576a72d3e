"""The battery: whether a design or a mutant is right, and whether it cleans up.

Two judges look at runs: the lab's verdict, and the record of which send carried what. A run shows only one order of
events. So a third judge (`fixed.orders`) looks at every order. If the design has a known protocol, the third judge also
adds a fault at any moment. Otherwise, as for a mutant, it takes the protocol from the record of a run, and adds no
fault.
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
SHAPE = (8, 16)  # of a feature: small, because the battery does not measure costs


@dataclass
class Health:
    """The result of the battery. `crashed` is the error of which the scheduler died, or None. `wrong` lists the faults
    of the runs that did not crash, a line each. `mutates`: the source requests lost their features. `shares`: a name
    was sent twice, which is harmless only if no consumer unlinks the name. `leaked` is the number of names left, by
    situation. `explored` is the result of every order of events, or None if there was nothing to explore."""

    crashed: str | None = None
    wrong: list[str] = field(default_factory=list)
    mutates: bool = False
    shares: bool = False
    leaked: dict[str, int] = field(default_factory=dict)
    explored: Explored | None = None

    @property
    def correct(self) -> bool:
        """Whether every sample was answered, in order and with the right bytes, and no run showed another fault. If
        the orders were explored: also whether every consumer is served in every order."""
        return not self.crashed and not self.wrong and (self.explored is None or self.explored.serves)

    @property
    def orders(self) -> str | None:
        """The verdict over all orders of events; None if they were not explored."""
        return self.explored and self.explored.verdict


def examine(design: Design, release: str = INSTALLED) -> Health:
    """Return the health of a design. The runs have every kind of feature, several prompts with several items, and two
    tensor-parallel ranks. Then come a failed send and a client that goes away, each early and late. Last, every order
    of events is explored. Raises Refused if the design cannot be plugged into this release."""
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
    """Return the result of every order of the design's protocol, with a fault at any moment. If the design has no known
    protocol, return the result of every order of one run's events, without a fault. Return None if there is nothing to
    explore (`fixed.orders.judged.judge`)."""
    if protocol := of_design(design.name):
        return explore(protocol, protocol.usual_n)
    judged = third.judge(_run(design, release))
    return judged and judged.worst


def _run(design: Design, release: str, feature: str = "tensor", **fields: object) -> Run:
    return run(requests(feature), n=N, release=release, fix=design, **fields)


def requests(feature: str = "tensor") -> list[TokenizedGenerateReqInput]:
    """Return two requests with two items each. Every feature has bytes of its own. `feature` is one of FEATURES."""
    return [
        make_request(feature, items=ITEMS, shape=SHAPE, rid=f"request-{i}", seed=10 * i, dtype="float32")
        for i in range(PROMPTS)
    ]


def _left(result: Run) -> int:
    return len(result.verdict.leftovers.segments)


def judge(health: Health, result: Run) -> None:
    """Add the findings of one run to `health`."""
    faults = result.faults()
    health.mutates |= result.mutated
    health.shares |= any(" was sent " in fault for fault in faults)
    if result.verdict.outcome == "crashed":
        health.crashed = result.verdict.error
        return
    health.leaked["success"] += _left(result)
    told = ("the source request was mutated", " was sent ", " was left ")  # `health` has fields for these
    wrong = [fault for fault in faults if not any(words in fault for words in told)]
    if result.verdict.answers != expected(result):
        wrong.append(f"the answers are {result.verdict.answers}")
    health.wrong += [words for words in dict.fromkeys(wrong) if words not in health.wrong]


def expected(result: Run) -> Sequence[str]:
    """Return the right answers, in order: the samples of the first prompt, then those of the second."""
    return [f"sample {k} {prompt}" for prompt in "ab"[:PROMPTS] for k in range(1, result.verdict.n + 1)]
