"""A verdict on a server as text for people: first what its clients saw, then the server's own evidence."""

from __future__ import annotations

from collections.abc import Iterator

from repro.lab.engine import report
from repro.lab.evidence.verdict import Outcome, Verdict
from repro.lab.server.account import Account, Seen, keeps, read
from repro.lab.terminal import aligned

PROMISES = {
    "crashed": "the server dies: everybody's answer is cut, and the next client is refused",
    "survived": "everybody has a whole answer, and the next client is served",
}
KINDS = {"before": "before", "other": "the others, streaming", "culprit": "image, n > 1", "next": "the next client"}


def text(verdict: Verdict, promise: Outcome) -> str:
    """The verdict beside the promise: first the clients' side, then the server's side."""
    account = read(verdict.events)
    server = report.text(verdict, promise).splitlines()
    head, rest = server[0], server[2:-1]  # the promise comes first, and the server's last line comes at the end
    lines = [
        f"{len(account.of('other'))} clients stream; one more sends {head}",
        f"promised   {PROMISES[promise]}",
        rest[0],
        "",
        *_clients(account),
        *rest[1:],
        f"verdict    {_judged(verdict, promise)}",
    ]
    return "\n".join(line for line in lines if not line.startswith("verdict ") or line is lines[-1])


def _clients(account: Account) -> Iterator[str]:
    rows = [("who", "whole", "cut", "tokens", "what their library raised")]
    rows += [_row(title, account.of(kind)) for kind, title in KINDS.items() if account.of(kind)]
    yield "the clients"
    yield from (f"  {line}" for line in aligned(rows))
    yield ""
    if account.replicas.get("before", 1) > 1:
        lived = f"{account.replicas['before']} before, {account.replicas.get('after', 0)} after"
        yield f"replicas   {lived}; the library of a client sent its request again: {_times(account.again)}"
    health = [f"{when}: {says}" for when, says in account.health.items()]
    yield f"/health    {', '.join(health) or 'never answered'}"
    if account.gone is not None:
        yield f"gone       {account.gone * 1000:.1f} ms from the first cut to `connection refused`"


def _times(number: int) -> str:
    return {0: "never", 1: "once"}.get(number, f"{number} times")


def _row(title: str, seen: list[Seen]) -> tuple[str, ...]:
    whole = sum(one.whole for one in seen)
    tokens = sorted(one.tokens for one in seen)
    span = f"{tokens[0]} to {tokens[-1]} of {seen[0].asked}" if tokens[-1] else "-"
    errors = ", ".join(sorted({one.error for one in seen if one.error})) or "nothing"
    return title, str(whole), str(len(seen) - whole), span, errors


def _judged(verdict: Verdict, promise: Outcome) -> str:
    if keeps(verdict, promise):
        return f"{verdict.outcome}, as promised"
    return f"{verdict.outcome}, but NOT as promised"
