"""The place where a case is made: one experiment of the lab, and what is seen around it on the machine."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field

from repro.lab import lifted
from repro.lab.evidence import leftovers
from repro.lab.evidence.event import Event
from repro.lab.places import SHM

LIMIT = 60.0  # seconds for an experiment, and for a program beside it


@dataclass
class Stage:
    """A place for one experiment. `private` says that the /dev/shm is the case's own, so that nothing foreign is in it.
    `record` is a file to which each event is written at once. `said` is what programs beside the experiment printed.
    `listing` is the output of `ls -l` for /dev/shm at the end, before anything was swept."""

    private: bool = False
    record: str = ""
    said: list[str] = field(default_factory=list)
    listing: str = ""

    def run(self, request: object = None, **fields: object) -> lifted.Run:
        """Make the experiment, and return it. Raises what `lifted.run` raises."""
        return lifted.run(request, look=self.look, record=self.record, timeout=LIMIT, **fields)

    def look(self, events: Sequence[Event]) -> None:
        """Keep the output of `ls -l`, unless there is one already. A private /dev/shm is listed whole. Otherwise only
        the names that the run has left are listed."""
        names = [] if self.private else [event.path.name for event in leftovers.left(events)]
        self.listing = self.listing or (listed(names) if names or self.private else "total 0\n")

    def beside(self, *command: str) -> None:
        """Run another program, wait until it and all that it has started have ended, and keep what they printed."""
        done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=LIMIT)
        self.said.append(done.stdout + done.stderr)


def listed(names: Sequence[str] = ()) -> str:
    """The output of `ls -l` for these names in /dev/shm, or for all names if none is given."""
    return subprocess.run(
        ["ls", "-l", "--", *names], cwd=SHM, capture_output=True, encoding="utf-8", timeout=LIMIT
    ).stdout
