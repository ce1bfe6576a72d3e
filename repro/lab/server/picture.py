"""What the clients of one server saw, as a picture: one lane for each client."""

from __future__ import annotations

from repro.lab.pictures import clients
from repro.lab.pictures.clients import END, Lane
from repro.lab.server.account import Account, Seen


def lanes(account: Account) -> list[Lane]:
    """A lane for each client that streamed, for the culprit, and for the next one."""
    streams = [_lane(f"client {seen.number + 1}", 0, END, seen) for seen in account.of("other")]
    culprit = [_lane("the culprit", 2, END, seen) for seen in account.of("culprit")]
    return [*streams, *culprit, *(_lane("the next", 4, 4, seen) for seen in account.of("next"))]


def svg(account: Account, title: str) -> str:
    """The picture as SVG."""
    return clients.clients(lanes(account), title=title)


def _lane(title: str, asks: int, ends: int, seen: Seen) -> Lane:
    says = "whole" if seen.whole else (seen.error or "not whole").partition(" ")[0].rpartition(".")[2]
    return Lane(title, asks, ends, seen.whole, says)
