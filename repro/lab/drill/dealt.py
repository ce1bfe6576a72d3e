"""Deal a case by a seed, and judge an answer."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from repro.lab.cases import CASES, making
from repro.lab.cases.case import Case
from repro.lab.drill.rules import signs
from repro.lab.drill.shown import Shown, shown

CAUSES = [case.cause for case in CASES.values()]
FIRSTS = sorted(case.first for case in CASES.values())
DECK = random.Random(24231).sample(list(CASES), len(CASES))


@dataclass(frozen=True)
class Deal:
    """A case that was dealt. `str()` gives the text that the reader gets. `case` is what the reader has to find."""

    seed: int
    case: Case
    shown: Shown

    def __repr__(self) -> str:
        return f"<Deal {self.seed}>"  # without the case's name, because a notebook shows this text

    def __str__(self) -> str:
        return str(self.shown)

    def is_right(self, cause: int, first: int) -> bool:
        """Whether both numbers are right. They count from 1: `cause` in CAUSES, `first` in FIRSTS."""
        return (CAUSES[cause - 1], FIRSTS[first - 1]) == (self.case.cause, self.case.first)

    def judged(self, cause: int, first: int) -> Iterator[str]:
        """Lines that say what speaks for and against an answer. The answer is two numbers, as in `is_right`."""
        said = next(case for case in CASES.values() if case.cause == CAUSES[cause - 1])
        yield f"you say     {said.cause}"
        yield from self._about(said)
        if said is not self.case:
            yield f"but it is   {self.case.cause}"
            yield from self._about(self.case)
        done = next(case for case in CASES.values() if case.first == FIRSTS[first - 1])
        yield f"you do      {done.first}"
        if done is not self.case:
            yield f"  that is for another cause: {done.cause}"
            yield f"do first    {self.case.first}"
        yield "both are right" if self.is_right(cause, first) else "not right: at least one of the two is wrong"

    def _about(self, case: Case) -> Iterator[str]:
        found = signs(self.shown)
        yield from (f"  for       {sign.says}" for sign in found if case.name in sign.speaks_for)
        yield from (f"  against   {sign.says}" for sign in found if case.name in sign.against)


def deal(seed: int, names: Sequence[str] = ()) -> Deal:
    """Make and return the case that belongs to this seed. Ten consecutive seeds deal each case once. With `names`, only
    the cases with these names are dealt.

    Raises Refused if a name is not the name of a case, or if this machine cannot make the case.
    """
    deck = [making.named(name).name for name in names] or DECK
    name = deck[seed % len(deck)]
    return Deal(seed, CASES[name], shown(making.make(name)))
