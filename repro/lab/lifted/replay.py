"""A token for an experiment: the words of the command line that made it, and a digest of what happened to names."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from repro.lab.evidence.event import Event
from repro.lab.refused import Refused

SHOWN = ("--json", "--events", "--why")  # what only decides how a run is told


@dataclass(frozen=True)
class Token:
    """The words, with the release's name in them, and the digest."""

    words: tuple[str, ...]
    digest: str

    def __str__(self) -> str:
        return base64.urlsafe_b64encode(json.dumps([self.digest, *self.words]).encode()).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> Token:
        """The token that `str` has made. Raises Refused for any other text."""
        try:
            digest, *words = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
            return cls(tuple(map(str.strip, words)), digest.strip())
        except (ValueError, TypeError, AttributeError):
            raise Refused(f"{text!r} is no token", "give one that --json has printed, under `token`") from None


def token(words: Sequence[str], release: str, events: Iterable[Event]) -> Token:
    """The token of an experiment that these words have made, on this release."""
    kept = [word for word in words if word not in SHOWN]
    return Token((*kept, "--release", release), digest(events))


def digest(events: Iterable[Event]) -> str:
    """A digest of who did what to which name for which send. Names are told apart by the order in which they were made.
    Which of two ranks is the one that unlinks a name is left open, and so is how processes overlap. (How far one rank
    comes while another one dies is a race: such a run need not have the same digest again.)"""
    lives: dict[str, set[tuple[str, str, int]]] = {}
    for event in events:
        what = "unlink" if event.what == "unlink failed" else event.what
        lives.setdefault(event.name, set()).add((event.role, what, -1 if event.send is None else event.send))
    told = json.dumps([sorted(life) for life in lives.values()])
    return hashlib.blake2b(told.encode(), digest_size=6).hexdigest()
