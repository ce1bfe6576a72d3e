"""What a case is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from repro.lab.cases.stage import Stage
from repro.lab.evidence.verdict import Outcome
from repro.lab.lifted import Run


@dataclass(frozen=True)
class Case:
    """One way in which a handle that is good for one use is used twice, lost, or taken away.

    `what` says in one line what happens. `act` makes it happen, and `outcome` is the outcome that the verdict must
    have. `cause` and `first` are what a reader has to find: the cause, and the first thing to do. `look` says which
    evidence tells this case from the others. With `mebibytes` or `descriptors`, the case is made in a process of its
    own, with a /dev/shm of that size, or with at most that many open files.
    """

    name: str
    what: str
    act: Callable[[Stage], Run]
    outcome: Outcome
    cause: str
    first: str
    look: str
    mebibytes: int = 0
    descriptors: int = 0

    @property
    def apart(self) -> bool:
        """Whether the case needs a process of its own."""
        return bool(self.mebibytes or self.descriptors)
