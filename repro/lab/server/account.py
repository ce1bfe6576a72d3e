"""What the clients of one server saw, read from the run's record, and whether this keeps the promise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from repro.lab.evidence.verdict import Outcome, Verdict


@dataclass(frozen=True)
class Seen:
    """What one client saw. `kind` is `other` (a client that streams), `culprit`, `next` or `before`. `whole` says
    whether the client got its whole answer. `asked` tokens were asked for, and `tokens` came. `error` is the exception
    of the client's library, and `says` is its text. `texts` are the answers."""

    kind: str
    number: int
    whole: bool
    tokens: int
    asked: int
    error: str | None = None
    says: str | None = None
    texts: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Account:
    """What all clients saw. `health` maps `before` and `after` to the answers of `/health`; equal answers of several
    replicas are said once. `gone` is the time in seconds from the first cut until every port refused connections; None
    if a port never refused. `replicas` maps `before` and `after` to the number of healthy servers. `again` is how many
    times a client's library sent its request again."""

    clients: list[Seen]
    health: dict[str, str]
    gone: float | None
    replicas: dict[str, int] = field(default_factory=dict)
    again: int = 0

    def of(self, kind: str) -> list[Seen]:
        """What the clients of this kind saw, by their number."""
        return sorted((seen for seen in self.clients if seen.kind == kind), key=lambda seen: seen.number)

    def served(self, kind: str) -> bool:
        """Whether there were clients of this kind, and each of them got a whole answer."""
        return bool(self.of(kind)) and all(seen.whole for seen in self.of(kind))

    def nobody_served(self, kind: str) -> bool:
        """Whether no client of this kind got a whole answer."""
        return not any(seen.whole for seen in self.of(kind))

    def as_dict(self) -> dict[str, Any]:
        """The account as plain data, for `json.dumps`."""
        return asdict(self)


def read(events: Iterable[Mapping[str, Any]]) -> Account:
    """The account in a run's events."""
    clients, said, gone, again = [], {}, None, 0
    for event in events:
        if event["what"] == "client":
            clients.append(Seen(**{name: event[name] for name in Seen.__dataclass_fields__ if name in event}))
        elif event["what"] == "health":
            said.setdefault(event["when"], []).append(event["says"])
        elif event["what"] == "refused connection":
            gone = event["seconds"]
        elif event["what"] == "tried again":
            again += 1
    health = {when: ", ".join(dict.fromkeys(says)) for when, says in said.items()}
    return Account(clients, health, gone, {when: says.count("200") for when, says in said.items()}, again)


def keeps(verdict: Verdict, promise: Outcome) -> bool:
    """Whether the promise about the server and its clients was kept. `crashed` promises #24231: every answer is cut
    after its first token, and the next client is refused. `survived` promises a whole answer for every client."""
    account = read(verdict.events)
    if not verdict.keeps(promise) or account.health.get("before") != "200":
        return False
    if promise == "survived":
        return all(map(account.served, ("other", "culprit", "next"))) and account.health.get("after") == "200"
    cut = all(seen.tokens and seen.error for seen in account.of("other"))
    all_cut = cut and bool(account.of("next")) and all(map(account.nobody_served, ("other", "culprit", "next")))
    return all_cut and account.gone is not None
