"""The third judge. A run shows one order of its events; this judge derives the run's protocol from its record, and
looks at every order of it, with two ranks. No fault is added: a calm run's record does not show what follows one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fixed.orders import lanes
from fixed.orders.explorer import KINDS, Explored, explore
from fixed.orders.recorded import parts
from repro.lab.lifted import Run

RANKS = 2  # enough to go wrong
MOST_SENDS = 33  # of one item: with n = 32 there are some 30,000 states, more would take seconds


@dataclass(frozen=True)
class Judged:
    """What every order of a run's events comes to: an exploration for each part of the run."""

    explored: Sequence[Explored]

    @property
    def worst(self) -> Explored:
        """The part with the worst verdict; the first of several."""
        return min(self.explored, key=lambda each: KINDS.index(each.verdict) if each.wrong else len(KINDS))

    @property
    def right(self) -> bool:
        """Whether nothing is wrong in any order."""
        return all(each.right for each in self.explored)

    @property
    def protocol(self) -> str:
        """The name of the worst part's protocol: a known one, such as `as released`, or what the part is."""
        return self.worst.protocol.name

    @property
    def verdict(self) -> str:
        """`right`, or the worst that is wrong."""
        return self.worst.verdict

    @property
    def lanes(self) -> str:
        """The shortest order that is wrong, as text; "" if none is."""
        return "\n".join(lanes.as_text(self.worst))

    def as_svg(self) -> str:
        """The same as an SVG document."""
        return lanes.as_svg(self.worst)

    def __str__(self) -> str:
        orders = sum(each.orders for each in self.explored)
        return f"{orders:,} orders: {self.verdict}" + (f" ({self.protocol})\n{self.lanes}" if not self.right else "")


def judge(run: Run) -> Judged | None:
    """What every order of the run's events comes to; None where there is nothing to explore: no name was made, or the
    run did not end, or it has more sends than MOST_SENDS."""
    found = {}
    for part in parts(run):
        if len(part.labels) > MOST_SENDS:
            return None
        key = part.program, part.consumer_unlinks
        if key not in found:
            found[key] = explore(part.protocol, max(len(part.labels) - 1, 1), RANKS, faults=[])
            found[key].labels = part.labels
    return Judged(list(found.values())) if found else None
