"""The first release that crashes, and the first release that does not crash any more: the same experiment on every
release."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from repro.lab.lifted.experiment import Run
from repro.lab.releases import ALL


@dataclass(frozen=True)
class Tried:
    """One release: the number of faults of its run, and the first of them ("" if there is none)."""

    release: str
    outcome: str
    faults: int
    first: str

    @property
    def bad(self) -> bool:
        """Whether the run had any fault."""
        return self.faults > 0


def tried(make: Callable[[str], Run], releases: Sequence[str] = ALL) -> Iterator[Tried]:
    """Try each release, the oldest first, and yield its result. `make` makes the experiment for a release."""
    for release in releases:
        run = make(release)
        faults = run.faults()
        yield Tried(release, run.verdict.outcome, len(faults), faults[0] if faults else "")


def turns(found: Sequence[Tried]) -> list[str]:
    """One line for each change: the first bad release, and the first good release after a bad one."""
    bad = [False, *(each.bad for each in found)]
    return [
        f"first {'bad' if each.bad else 'good'} release: {each.release}"
        for before, each in zip(bad[:-1], found, strict=True)
        if each.bad != before
    ] or ["no release is bad"]
