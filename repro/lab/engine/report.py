"""A verdict as text for people."""

from __future__ import annotations

from collections.abc import Iterator

from repro.lab.evidence.event import NAMING
from repro.lab.evidence.verdict import Outcome, Verdict
from repro.lab.releases import AFFECTED

PROMISES = {
    "crashed": "the server dies: FileNotFoundError on a name that its first consumer has unlinked",
    "survived": "{answers}",
}


def text(verdict: Verdict, promise: Outcome) -> str:
    """The verdict beside the promise, with the evidence, in about one screen of lines."""
    return "\n".join(_lines(verdict, promise))


def _lines(verdict: Verdict, promise: Outcome) -> Iterator[str]:
    started = f", processes by {verdict.start_method}" if verdict.start_method else ""
    yield f"one image, n = {verdict.n}, sglang {verdict.release}, {verdict.device}, model {verdict.model}{started}"
    yield f"promised   {PROMISES[promise].format(answers=_answers(verdict.n))}"
    yield f"happened   {_happened(verdict)}"
    if verdict.answers is not None:
        yield from _table("answers", (answer.strip() for answer in verdict.answers))
    if verdict.segment:
        yield from _table(f"the name {verdict.segment}", _life(verdict))
    elif verdict.events:
        yield from _table("the names", _names(verdict))
    if verdict.frames:
        yield from _table(f"the {verdict.dying}'s last frames", "\n".join(verdict.frames).splitlines(), indent="")
        yield f"{verdict.error}: {verdict.message}"
    if verdict.died:
        yield from _table("who ended", verdict.died)
    yield ""
    yield f"took       {_took(verdict)}"
    yield f"left       {_left(verdict)}"
    if verdict.missing:
        yield f"account    {verdict.missing} events are missing: they could not be written"
    yield f"verdict    {_judged(verdict, promise)}"
    if verdict.release not in AFFECTED:
        yield f"note       the promise was made for {AFFECTED[0]} to {AFFECTED[-1]}; this is {verdict.release}"


def _happened(verdict: Verdict) -> str:
    if verdict.outcome == "survived":
        return _answers(len(verdict.answers))
    if verdict.outcome == "hung":
        return f"{verdict.error}: it was killed"
    if verdict.outcome == "refused":
        return f"it could not be run: {verdict.message}"
    if verdict.error and verdict.error.endswith("SIGBUS"):
        return f"died: {verdict.error}. Linux does this to a process that writes into /dev/shm when /dev/shm is full"
    return f"{verdict.error} at {verdict.where}" if verdict.where else f"died: {verdict.error}"


def _answers(count: int) -> str:
    return f"{count} answer{'s' if count != 1 else ''}"


def _life(verdict: Verdict) -> Iterator[str]:
    for event in verdict.events:
        if event.get("name") == verdict.segment:
            yield f"{event['role']:<12} {event['what']:<12} {event.get('where', '')}"


def _names(verdict: Verdict) -> Iterator[str]:
    """One row for each segment: what happened to its name, in order."""
    segments = dict.fromkeys(event["name"] for event in verdict.events if event["what"] in NAMING)
    for name in segments:
        yield f"{name}  {', '.join(event['what'] for event in verdict.events if event.get('name') == name)}"


def _took(verdict: Verdict) -> str:
    seconds = verdict.seconds
    parts = {"boot": seconds.boot, "generate": seconds.generate, "total": seconds.total}
    return ", ".join(f"{name} {value:.1f} s" for name, value in parts.items() if value is not None)


def _left(verdict: Verdict) -> str:
    left = verdict.leftovers
    found = f"{_count(left.segments, 'name')} in /dev/shm, {_count(left.processes, 'process')}"
    after = gone = ""
    if left.remaining:
        after = f"; still there: {', '.join(left.remaining)}"
    elif left.segments or left.processes:
        after = "; swept, nothing remains"
    if verdict.segment and verdict.segment.removeprefix("/") not in left.segments:
        gone = f"{verdict.segment} is gone; "
    return gone + found + after


def _judged(verdict: Verdict, promise: Outcome) -> str:
    if verdict.keeps(promise):
        return f"{verdict.outcome}, as promised"
    if promise == "crashed" and verdict.outcome == "crashed":
        return "crashed, but NOT as promised: this is another death"
    return f"{verdict.outcome}, NOT as promised"


def _table(title: str, rows, indent: str = "  ") -> Iterator[str]:
    yield ""
    yield title
    for row in rows:
        yield f"{indent}{row}"


def _count(things: list[str], noun: str) -> str:
    plural = noun + ("es" if noun.endswith("s") else "s")
    return f"{len(things) or 'no'} {noun if len(things) == 1 else plural}"
