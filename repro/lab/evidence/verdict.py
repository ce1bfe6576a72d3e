"""The result of a run: one dataclass for both ways to run the bug."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from repro.lab.evidence.last_words import LastWords

Outcome = Literal["crashed", "survived", "hung", "refused"]
LAST_TWO = ("unlink", "open failed")  # the last two events of a name that was sent again after its unlink
TOO_LONG = "no end within the limit"  # the error of a run that hung


@dataclass
class Seconds:
    """The seconds that each phase took; None for a phase that was not finished."""

    boot: float | None = None
    generate: float | None = None
    total: float | None = None


@dataclass
class Leftovers:
    """What the run had left at its end, before the sweep, and what was still there after the sweep."""

    segments: list[str] = field(default_factory=list)
    processes: list[str] = field(default_factory=list)
    remaining: list[str] = field(default_factory=list)


@dataclass
class Verdict:
    """The result of a run, and the evidence for it.

    `answers` is what the scene returned (for a request: its texts). `error`, `errno`, `segment` and `where` (`file:line
    function`) are read from the text that the dying process printed. `frames` are its last frames, verbatim. `dying`
    names this process. `events` is the recorder's account of the names in /dev/shm. `missing` counts the events that
    are not in the account. `died` says which processes ended, and by what. `start_method` says how sglang's processes
    were started: `fork` (one import for all) or `spawn` (as sglang does).
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
    dying: str | None = None
    died: list[str] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    missing: int = 0

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Verdict:
        """The verdict in the data of `as_dict`. Other keys, such as the lab's `sends`, are ignored."""
        given = {name: told[name] for name in cls.__dataclass_fields__ if name in told}
        return cls(**{**given, "seconds": Seconds(**told["seconds"]), "leftovers": Leftovers(**told["leftovers"])})

    def as_dict(self) -> dict[str, Any]:
        """The verdict as plain data, for `json.dumps`."""
        return asdict(self)

    def died_of(self, words: LastWords, frames: int | None = None) -> None:
        """Note that the run crashed with these last words. Only the last of their frames are kept."""
        self.outcome, self.error, self.message = "crashed", words.error, words.message
        self.errno, self.segment, self.where = words.errno, words.segment, words.where
        self.dying = words.process
        self.frames = [frame.text for frame in words.frames[-(frames or 0) :]]

    def is_the_crash(self) -> bool:
        """Whether the run died of #24231 and of nothing else: unpickling a pointer raised FileNotFoundError on a
        name that this run had created and that the same process had unlinked before. (If another rank unlinked the
        name, the cause is a missing barrier.)"""
        return (
            self.outcome == "crashed"
            and self.error == "FileNotFoundError"
            and self.errno == 2
            and (self.where or "").endswith(" __setstate__")
            and self.life_of_segment() == ["create", "open", "unlink", "open failed"]
            and len({event.get("pid") for event in self._about_segment() if event["what"] in LAST_TWO}) == 1
        )

    def life_of_segment(self) -> list[str]:
        """What happened to the name `segment`, in order: `create`, `open`, `unlink`, `open failed`, ... The events of
        the memory behind the name (`map`, `close`) are left out."""
        life = [event["what"] for event in self._about_segment()]
        return [what for what in life if what not in ("map", "close")]

    def _about_segment(self) -> list[dict[str, Any]]:
        return [event for event in self.events if event.get("name") == self.segment]

    def keeps(self, promise: Outcome) -> bool:
        """Whether the run did what was promised. `crashed` promises this crash and no other death, `survived` promises
        n answers."""
        if promise == "crashed":
            return self.is_the_crash()
        return self.outcome == promise == "survived" and len(self.answers or []) == self.n
