"""A token for an experiment: the words of the command line that made it, the order in which its processes acted, and a
digest of what happened to names. With the token, the same acts come in the same order again."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from repro.lab.evidence.event import Event
from repro.lab.evidence.in_order import ACTS, Order
from repro.lab.refused import Refused

SHOWN = ("--json", "--events", "--why")  # options that decide only how a run is shown
LONGEST = 100_000  # characters of a token: a word of a command line has a limited length
LARGEST = 100 * LONGEST  # bytes of an unpacked token


@dataclass(frozen=True)
class Token:
    """`words` are the words of the command line, with the release's name. `digest` is as from the function `digest`.
    `order` has the acts of all processes, one after the other. If the text of a token would be longer than LONGEST, the
    order is left out, and the experiment is made again without an order."""

    words: tuple[str, ...]
    digest: str
    order: Order = ()

    def __str__(self) -> str:
        text = self._written(self.order)
        return text if len(text) <= LONGEST else self._written(())

    def _written(self, order: Order) -> str:
        roles = sorted({role for role, _ in order})
        acts = [roles.index(role) * len(ACTS) + ACTS.index(what) for role, what in order]
        told = json.dumps([self.words, self.digest, roles, acts], separators=(",", ":"))
        return base64.urlsafe_b64encode(zlib.compress(told.encode(), 9)).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> Token:
        """The token that `str` has made. Raises Refused for any other text."""
        try:
            packed = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
            words, digest, roles, acts = json.loads(zlib.decompressobj().decompress(packed, LARGEST))
            if min(acts, default=0) < 0:
                raise IndexError
            order = tuple((roles[act // len(ACTS)].strip(), ACTS[act % len(ACTS)]) for act in acts)
            return cls(tuple(map(str.strip, words)), digest.strip(), order)
        except (ValueError, TypeError, AttributeError, IndexError, zlib.error):
            raise Refused(f"{text!r} is no token", "give one that --json has printed, under `token`") from None


def token(words: Sequence[str], release: str, events: Iterable[Event]) -> Token:
    """The token of an experiment that the command line `words` has made on this release, with these events."""
    kept = [word for word in words if word not in SHOWN]
    events = acted(events)
    order = tuple((event.role, event.what.removesuffix(" failed")) for event in events)
    return Token((*kept, "--release", release), digest(events), order)


def acted(events: Iterable[Event]) -> list[Event]:
    """The acts among `events`, in an order in which they are possible. The time of an event is the time at which its
    call began. So one process may open a name although the call of another process that unlinks the name began
    earlier. Such an unlink is moved behind the open."""
    found = [event for event in events if event.what.removesuffix(" failed") in ACTS]
    for unlink in [event for event in found if event.what == "unlink"]:
        opened = 0
        for place in range(found.index(unlink) + 1, len(found)):
            if found[place].name == unlink.name and found[place].what in ("create", "link"):
                break
            if found[place].name == unlink.name and found[place].what == "open":
                opened = place
        if opened:
            found.remove(unlink)
            found.insert(opened, unlink)
    return found


def digest(events: Iterable[Event]) -> str:
    """A digest of who did what to which name for which send, in order. Each name counts as the number of its first
    event, so the digest does not depend on random names."""
    numbers: dict[str, int] = {}
    told = [
        (event.role, event.what, numbers.setdefault(event.name, len(numbers)), event.send) for event in acted(events)
    ]
    return hashlib.blake2b(json.dumps(told).encode(), digest_size=6).hexdigest()
