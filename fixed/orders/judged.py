"""The third judge. A run shows only one order of its events. This judge reads the run's protocol from the run's record,
and looks at every order of the protocol, with two ranks. It adds no fault, because the record of a run without a fault
does not show what the design does after a fault."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fixed.orders import lanes
from fixed.orders.explorer import KINDS, Explored, explore
from fixed.orders.recorded import parts
from repro.lab.lifted import Run

RANKS = 2  # enough to go wrong
MOST_SENDS = 33  # of one item: with n = 32 there are about 30,000 states; a larger n would take seconds


@dataclass(frozen=True)
class Judged:
    """The third judge's result: an exploration for each part of the run (`recorded.Part`)."""

    explored: Sequence[Explored]

    @property
    def worst(self) -> Explored:
        """The exploration with the worst verdict. If several are equally bad, the first of them."""
        return min(self.explored, key=lambda each: KINDS.index(each.verdict) if each.wrong else len(KINDS))

    @property
    def right(self) -> bool:
        """Whether nothing is wrong in any order."""
        return all(each.right for each in self.explored)

    @property
    def protocol(self) -> str:
        """The name of the worst part's protocol. If the protocol is a known one, this is its name, such as
        `as released`; otherwise it is the name of the part, such as `item 1`."""
        return self.worst.protocol.name

    @property
    def verdict(self) -> str:
        """`right`, or the worst kind of error."""
        return self.worst.verdict

    @property
    def lanes(self) -> str:
        """The shortest wrong order as text; "" if no order is wrong."""
        return "\n".join(lanes.as_text(self.worst))

    def as_svg(self) -> str:
        """Return the shortest wrong order as an SVG document."""
        return lanes.as_svg(self.worst)

    def __str__(self) -> str:
        orders = sum(each.orders for each in self.explored)
        return f"{orders:,} orders: {self.verdict}" + (f" ({self.protocol})\n{self.lanes}" if not self.right else "")


def judge(run: Run) -> Judged | None:
    """Return the result of every order of the run's events. Return None if there is nothing to explore: no name was
    made, or the run neither survived nor crashed, or one item has more sends than MOST_SENDS."""
    found = {}
    for part in parts(run):
        if len(part.labels) > MOST_SENDS:
            return None
        key = part.program, part.consumer_unlinks
        if key not in found:
            found[key] = explore(part.protocol, max(len(part.labels) - 1, 1), RANKS, faults=[])
            found[key].labels = part.labels
    return Judged(list(found.values())) if found else None
