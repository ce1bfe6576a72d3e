"""The protocol of a run, read from the run's record: what the tokenizer did to names, as programs for the machine.

The run is divided into parts. Each item of each prompt is one part, because acts on one item's names do not affect
another item's names. The names that were made and never sent are one more part. The record does not show when the
resource tracker was told of a name. So a program from a record has no `register` step; this matters only after a kill.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fixed.orders.protocols import PROTOCOLS, RIGHT, Protocol, Step, answers, send
from repro.lab.evidence.event import NAMING, Event
from repro.lab.lifted import Run

TOKENIZER = "tokenizer"  # the recorder's name for the tokenizer's process
UNSENT = "what was never sent"


@dataclass(frozen=True)
class Part:
    """What a run did to the names of one item. `name` is the part's name, `program` are the tokenizer's steps, and
    `labels` are the names of the sends. `consumer_unlinks` says whether the scheduler unlinks what it is sent."""

    name: str
    program: tuple[Step, ...]
    labels: tuple[str, ...]
    consumer_unlinks: bool

    @property
    def protocol(self) -> Protocol:
        """The program as a protocol. If a known protocol has the same steps, the protocol has its name, otherwise the
        part's name."""
        name = next((known.name for known in (*RIGHT, *PROTOCOLS) if not known.pool and self._is(known)), self.name)
        return Protocol(name, lambda _: self.program, consumer_unlinks=self.consumer_unlinks)

    def _is(self, known: Protocol) -> bool:
        program = known.program(max(len(self.labels) - 1, 1))
        steps = tuple(step for step in program if step.what != "register")
        return (steps, known.consumer_unlinks, known.barrier) == (self.program, self.consumer_unlinks, True)


def parts(run: Run) -> list[Part]:
    """Return the parts of a run. The list is empty if no name was made, or if the run neither survived nor crashed."""
    if run.verdict.outcome not in ("survived", "crashed"):
        return []
    ours = [event for event in run.events if event.name not in run.kept]
    found, seen = [], set()
    for prompt, numbers in enumerate(_prompts(run)):
        for place in range(max((len(run.sends[number].names) for number in numbers), default=0)):
            carrying = [number for number in numbers if len(run.sends[number].names) > place]
            names = _of_one_file(ours, {run.sends[number].names[place] for number in carrying})
            label = f"item {place + 1}" + f" of prompt {prompt + 1}" * (len(run.requests) > 1)
            found.append(_part(run, ours, label, carrying, place, names))
            seen |= names
    unsent = {event.name for event in ours if event.what in NAMING and event.role == TOKENIZER} - seen
    return found + ([_part(run, ours, UNSENT, [], 0, unsent)] if unsent else [])


def _prompts(run: Run) -> Iterator[list[int]]:
    """For each prompt, the numbers of its sends that left: the warm-up and the samples, or the only send."""
    batch, n = len(run.requests), run.verdict.n
    for prompt in range(batch):
        samples = range(batch + prompt * n, batch + (prompt + 1) * n) if n > 1 else ()
        yield [number for number in (prompt, *samples) if number < len(run.sends) and run.sends[number].gone]


def _of_one_file(events: Sequence[Event], names: set[str]) -> set[str]:
    """These names, and all other names that led to the same segments."""
    inodes = {event.inode for event in events if event.name in names and event.what in NAMING}
    return names | {event.name for event in events if event.what in NAMING and event.inode in inodes}


def _part(run: Run, events: Sequence[Event], label: str, carrying: list[int], place: int, names: set[str]) -> Part:
    number_of: dict[str, int] = {}
    done: list[tuple[float, Step]] = []
    for event in events:
        what = "unlink" if event.what == "unlink failed" else event.what  # in another order it may succeed
        if event.name in names and event.role == TOKENIZER and what in (*NAMING, "unlink"):
            done.append((event.at, Step(what, number_of.setdefault(event.name, len(number_of)))))
    for count, number in enumerate(carrying):
        one = run.sends[number]
        done.append((one.at, send(count, number_of.setdefault(one.names[place], len(number_of)))))
    program: list[Step] = []
    awaited = run.verdict.n > 1 and carrying and carrying[0] < len(run.requests)  # the first send is a warm-up
    for _, step in sorted(done, key=lambda each: each[0]):
        program.append(step)
        if step.what == "send" and step.send == 0 and awaited and len(carrying) > 1:
            program.append(answers(1))
        if step.what == "send" and step.send == len(carrying) - 1:
            program.append(answers(len(carrying)))
    unlinked = any(event.what == "unlink" and event.role != TOKENIZER and event.name in names for event in events)
    arrived = any(run.sends[number].intact for number in carrying)
    return Part(label, tuple(program), tuple(run.labels[number] for number in carrying), unlinked or not arrived)
