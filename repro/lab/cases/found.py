"""The result of a case: a verdict, and all the evidence that a reader could have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from repro.lab import pictures
from repro.lab.cases.stage import Stage
from repro.lab.evidence.event import NAMING, Event
from repro.lab.evidence.inotify import Seen
from repro.lab.evidence.verdict import Verdict
from repro.lab.lifted import Run

FEW = 4  # names that a picture shows at most
OTHERS, INSTANT = "somebody else", 1e-9  # seconds


@dataclass
class Found:
    """`verdict`, `events`, `faults` and `kernel` are the run's. For each send, `labels` has the word for it, `names`
    the names that it carried, and `rooms` its bootstrap room. `log` is what the processes printed. `listing` is the
    output of `ls -l` for /dev/shm at the end."""

    name: str
    verdict: Verdict
    events: list[Event]
    labels: list[str] = field(default_factory=list)
    names: list[list[str]] = field(default_factory=list)
    rooms: list[int | None] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    kernel: list[Seen] = field(default_factory=list)
    log: str = ""
    listing: str = ""

    @classmethod
    def of(cls, name: str, run: Run, stage: Stage) -> Found:
        """The result of a run on its stage."""
        return cls(
            name,
            run.verdict,
            run.events,
            run.labels,
            [send.names for send in run.sends],
            [send.room for send in run.sends],
            run.faults(),
            run.kernel,
            "".join([*stage.said, run.log]),
            stage.listing,
        )

    @classmethod
    def from_dict(cls, told: dict[str, Any]) -> Found:
        """The result in the data of `as_dict`."""
        more = {"verdict": Verdict.from_dict(told["verdict"]), "events": [Event(**each) for each in told["events"]]}
        return cls(**{**told, **more, "kernel": [Seen(**each) for each in told["kernel"]]})

    def as_dict(self) -> dict[str, Any]:
        """The result as plain data, for `json.dumps`."""
        return {**asdict(self), "verdict": self.verdict.as_dict()}

    @property
    def drawn(self) -> list[Event]:
        """The events for a picture, in order of time. If the run made more than FEW names, these are the events of the
        first two names, of the last name, and of the first name with a failed act. If another program unlinked the
        name of this failed act, only the kernel's account has that unlink. It has no time there, so it is placed just
        before the failed act."""
        made = list(dict.fromkeys(event.name for event in self.events if event.what in NAMING))
        failed = [event for event in self.events if event.what.endswith("failed")]
        shown = set(made) if len(made) <= FEW else {*made[:2], *(event.name for event in failed[:1]), made[-1]}
        theirs = [
            replace(event, at=event.at - INSTANT, pid=0, role=OTHERS, what="unlink", errno=None, where=None)
            for event in failed[:1]
            if event.name in self.taken_by_others()
        ]
        return sorted((event for event in self.events + theirs if event.name in shown), key=lambda event: event.at)

    def picture(self) -> str:
        """The lanes as SVG."""
        return pictures.lanes(self.drawn, labels=self.labels, title=self.name)

    def text(self) -> str:
        """The same lanes as text."""
        return pictures.lanes_text(self.drawn, labels=self.labels)

    def taken_by_others(self) -> Sequence[str]:
        """The names that no process of the experiment unlinked: the kernel's account has their unlink, and the
        recorder's events do not have it."""
        ours = [event.name for event in self.events if event.what == "unlink"]
        theirs = []
        for seen in self.kernel:
            if seen.what == "unlink" and seen.name in ours:
                ours.remove(seen.name)
            elif seen.what == "unlink":
                theirs.append(seen.name)
        return theirs
