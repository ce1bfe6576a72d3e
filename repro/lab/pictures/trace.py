"""A run's events in the Trace Event Format, which Perfetto and Chrome (`about:tracing`) open. Each process has one
track."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

BORN, GONE = ("create", "link"), "unlink"
LIVES = "names in /dev/shm"


def trace(events: Iterable[Any], *, labels: Sequence[str] = ()) -> dict[str, Any]:
    """An object for `json.dumps`. Each event is a mark on the track of its process, and each name a bar from the act
    that makes the name to the act that unlinks the name. A name that stays has a bar that ends with the last event.

    `events` have `at, pid, role, what, name, send, bytes, errno, where`; `labels[k]` is the label of send k.
    """
    events = sorted(events, key=lambda event: event.at)
    return {"displayTimeUnit": "ms", "traceEvents": [*_tracks(events), *_marks(events, labels), *_lives(events)]}


def _tracks(events: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """The names of the processes."""
    for pid, role in {event.pid: event.role for event in events}.items():
        yield {"ph": "M", "name": "process_name", "pid": pid, "tid": pid, "args": {"name": role}}


def _marks(events: Sequence[Any], labels: Sequence[str]) -> Iterator[dict[str, Any]]:
    for event in events:
        label = labels[event.send] if event.send is not None and event.send < len(labels) else None
        told = {"name": event.name, "send": label, "bytes": event.bytes, "errno": event.errno, "where": event.where}
        yield {
            "ph": "i",
            "s": "t",
            "cat": "act",
            "name": event.what,
            "ts": _microseconds(event, events),
            "pid": event.pid,
            "tid": event.pid,
            "args": {key: value for key, value in told.items() if value is not None},
        }


def _lives(events: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """The bars of the names. A name that is made twice has two bars."""
    alive: dict[str, dict[str, Any]] = {}
    for number, event in enumerate(events):
        if event.what in BORN:
            alive[event.name] = bar = {
                "cat": LIVES,
                "name": event.name,
                "id": number,
                "pid": event.pid,
                "tid": event.pid,
            }
            yield {**bar, "ph": "b", "ts": _microseconds(event, events)}
        elif event.what == GONE and event.name in alive:
            yield {**alive.pop(event.name), "ph": "e", "ts": _microseconds(event, events)}
    yield from ({**bar, "ph": "e", "ts": _microseconds(events[-1], events)} for bar in alive.values())


def _microseconds(event: Any, events: Sequence[Any]) -> float:
    return round(1e6 * (event.at - events[0].at), 1)
