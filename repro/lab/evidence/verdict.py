"""What a run came to: one dataclass for every way to run the bug."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Outcome = Literal["crashed", "survived", "hung", "refused"]
AFFECTED = ("0.5.9", "0.5.10", "0.5.10.post1", "0.5.11", "0.5.12", "0.5.12.post1")


class Refused(Exception):
    """The run cannot be made as asked: what was wrong, the value, the way out, in one line."""


@dataclass
class Seconds:
    """How long the phases took; None for a phase that was not finished."""

    boot: float | None = None
    generate: float | None = None
    total: float | None = None


@dataclass
class Leftovers:
    """What the run had left when it was over, before the sweep, and what was still there after it."""

    segments: list[str] = field(default_factory=list)
    processes: list[str] = field(default_factory=list)
    remaining: list[str] = field(default_factory=list)


@dataclass
class Verdict:
    """What a run came to, and the evidence for it.

    `answers` is what the scene returned (for a request: its texts). `error`, `errno`, `segment` and `where`
    (`file:line function`) are read from what the dying process printed; `frames` are its last frames verbatim.
    `events` is the recorder's account of the shared-memory names, `died` who ended and by what. `start_method` is how
    sglang's processes were started: `fork` (one import for all) or `spawn` (as sglang does).
    """

    outcome: Outcome
    n: int | None = None
    error: str | None = None
    errno: int | None = None
    segment: str | None = None
    where: str | None = None
    answers: Any = None
    release: str | None = None
    device: str | None = None
    model: str | None = None
    start_method: str | None = None
    seconds: Seconds = field(default_factory=Seconds)
    leftovers: Leftovers = field(default_factory=Leftovers)
    message: str | None = None
    frames: list[str] = field(default_factory=list)
    died: list[str] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The verdict as plain data, for `json.dumps`."""
        return asdict(self)

    def is_the_crash(self) -> bool:
        """Whether the run died of #24231 and of nothing else: unpickling a pointer raised FileNotFoundError on a
        name that this run had created and had unlinked before."""
        return (
            self.outcome == "crashed"
            and self.error == "FileNotFoundError"
            and self.errno == 2
            and (self.where or "").endswith(" __setstate__")
            and self.life_of_segment() == ["create", "open", "unlink", "open failed"]
        )

    def life_of_segment(self) -> list[str]:
        """What happened to the name `segment`, in order: `create`, `open`, `unlink`, `open failed`, ... What was done
        to the memory behind it (`map`, `close`) is left out."""
        life = [event["what"] for event in self.events if event.get("name") == self.segment]
        return [what for what in life if what not in ("map", "close")]

    def keeps(self, promise: Outcome) -> bool:
        """Whether what was promised happened: the crash and no other death, or n answers."""
        if promise == "crashed":
            return self.is_the_crash()
        return self.outcome == promise == "survived" and len(self.answers or []) == self.n
