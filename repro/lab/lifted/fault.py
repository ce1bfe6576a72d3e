"""The fault of an experiment, in the same words from Python and from a shell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

What = Literal["kill", "fail", "cancel"]
# The fault -> the moments of a send at which it can come. The first moment is the default.
MOMENTS: dict[str, tuple[str, ...]] = {
    "kill": ("open", "clone", "unlink", "create", "send"),  # the scheduler, by SIGKILL
    "fail": ("send",),  # the send, after it was wrapped
    "cancel": ("answer",),  # the client goes away while the send waits for its answer
}
IN_THE_SCHEDULER = {"open": "open", "clone": "close", "unlink": "unlink"}  # moment -> the event after which it comes


@dataclass(frozen=True)
class Fault:
    """`what` goes wrong `at` a moment of a `send` (0 is the first one): `Fault("kill", at="open", send=2)`.

    `kill` kills the scheduler: when the send's first name is made (`create`), before the message leaves (`send`), or
    after the scheduler has opened the name, cloned the feature or unlinked the name. With `fail`, the send fails. With
    `cancel`, the client goes away. Raises ValueError for anything else.
    """

    what: What
    at: str = ""
    send: int = 0

    def __post_init__(self) -> None:
        if self.what not in MOMENTS:
            raise ValueError(f"{self.what!r} is not a fault: give one of {', '.join(MOMENTS)}")
        if not self.at:
            object.__setattr__(self, "at", MOMENTS[self.what][0])
        if self.at not in MOMENTS[self.what]:
            raise ValueError(f"{self.what} is not possible at {self.at!r}: give {', '.join(MOMENTS[self.what])}")
        if self.send < 0:
            raise ValueError(f"send {self.send} is not possible: the first one is 0")

    def __str__(self) -> str:
        return f"{self.what}@{self.at}:{self.send}"

    @classmethod
    def parse(cls, text: str) -> Fault:
        """The fault for a text such as `kill@open:2`, `fail:1` or `cancel`. Raises ValueError for any other text."""
        words, _, send = text.partition(":")
        what, _, at = words.partition("@")
        if send and not send.isdecimal():
            raise ValueError(f"{send!r} is not the number of a send: give a whole number, as in {what}:1")
        return cls(what, at, int(send or 0))

    @property
    def last_event(self) -> str | None:
        """The event in the scheduler's process after which the scheduler is killed; None if it is not killed there."""
        return IN_THE_SCHEDULER.get(self.at) if self.what == "kill" else None
