"""One experiment: tokenizer process -> ZMQ -> scheduler process, on lifted code -> `Run`.

The tokenizer's side is this process, the scheduler's another one that is kept for the next run unless it dies.
Between them are a real ZMQ socket and real POSIX shared memory; only the model is missing.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path

from repro.lab.evidence import last_words, recorder
from repro.lab.evidence.inotify import SHM, Seen, watching
from repro.lab.evidence.recorder import NAMING, Event
from repro.lab.evidence.verdict import Leftovers, Seconds, Verdict
from repro.lab.lifted.pool import bench
from repro.lab.lifted.request import TokenizedGenerateReqInput, arrays, make_request
from repro.lab.lifted.scheduler_side import DEATHS, Session
from repro.lab.lifted.tokenizer_side import Faults, SchedulerDied, Send, Tokenizer
from repro.lab.upstream import source, standins
from repro.lab.upstream.standins import Hook

TRANSPORTS = ("shm", "default")
MOMENTS = ("create", "send", *DEATHS)
Prepare = Callable[[TokenizedGenerateReqInput], TokenizedGenerateReqInput]


@dataclass
class Run:
    """What one experiment came to. `verdict` is of the same kind as an engine's; `events` is the recorder's account,
    `kernel` inotify's; `mutated` says whether the source requests no longer hold the features that they held."""

    verdict: Verdict
    sends: list[Send]
    events: list[Event]
    kernel: list[Seen]
    mutated: bool
    requests: list[TokenizedGenerateReqInput]

    def __repr__(self) -> str:
        told = self.verdict.error or f"{len(self.verdict.answers or [])} answers"
        return f"<Run {self.verdict.outcome}: {told}; {len(self.sends)} sends, {len(self.names)} names>"

    @property
    def names(self) -> list[str]:
        """The names that the run created, in order."""
        return [event.name for event in self.events if event.what in NAMING]

    @property
    def labels(self) -> list[str]:
        """What each send is: `warm-up`, `sample 1`, ..."""
        return [send.label for send in self.sends]

    def faults(self) -> list[str]:
        """What is wrong with the ownership of names, a line each; none if every send owned what it sent: names of its
        own, each unlinked exactly once, the bytes intact, the source unmutated, and nothing left."""
        sent = [name for send in self.sends for name in send.names]
        unlinked = [event.name for event in self.events if event.what == "unlink"]
        faults = [f"{self.verdict.outcome}: {self.verdict.error}"] if self.verdict.outcome != "survived" else []
        faults += [f"{name} was sent {k} times" for name in dict.fromkeys(sent) if (k := sent.count(name)) > 1]
        faults += [f"{name} was unlinked {k} times" for name in self.names if (k := unlinked.count(name)) != 1]
        faults += [f"{send.label} did not arrive intact" for send in self.sends if send.intact is False]
        if self.mutated and self.verdict.n > 1:  # with n = 1 nothing is copied: the source is what is sent
            faults.append("the source request was mutated")
        return faults + [f"{name} was left in /dev/shm" for name in self.verdict.leftovers.segments]


def run(
    request: TokenizedGenerateReqInput | Sequence[TokenizedGenerateReqInput] | None = None,
    *,
    n: int,
    release: str = source.INSTALLED,
    prepare: Prepare | None = None,
    points: Sequence[int] = (1, 2),
    hooks: Mapping[str, Hook] | None = None,
    transport: str = "shm",
    skip_tokenizer_init: bool = False,
    ranks: int = 1,
    barrier: bool = True,
    late: float = 0.0,
    die: tuple[str, int] | None = None,
    fail_send: int | None = None,
    cancel: int | None = None,
    sweep: bool = True,
    trace: Callable | None = None,
    timeout: float = 20.0,
) -> Run:
    """Send `request` (or, for a batch of prompts, each of several) n times, as `release` does it.

    `prepare` is applied to each copied request at the expansion `points` (1: the warm-up's, 2: the samples'); None
    leaves the release's own code untouched. `hooks` stand around sglang's functions in the tokenizer's process, as
    `standins.plugged` has it. `transport` is `shm` or `default` (inline, as with `dist_init_addr`). `ranks` consumers
    unpickle each request, as tensor-parallel ranks do, with or without the `barrier` before they unwrap; all but the
    first are `late` by so many seconds. `die` kills the scheduler at a moment of MOMENTS of a send; `fail_send` lets
    that send fail after it was wrapped; at `cancel` the client goes away while that send waits for its answer.
    Without `sweep`, names that are left stay, and it is for the caller to remove them. `trace` goes to `sys.settrace`
    on the tokenizer's thread. A small /dev/shm is a knob of `small_shm`.

    The source requests are left as the run left them. Raises Refused if the release cannot be had, or has not two
    expansion points for `prepare`; ValueError for a knob's wrong value.
    """
    if n < 1 or transport not in TRANSPORTS or (die and die[0] not in MOMENTS):
        raise ValueError(f"n = {n}, transport = {transport!r}, die = {die!r}: see what run takes")
    release = source.name_of(release)
    bench.warm_up()
    request = make_request() if request is None else request
    requests = [request] if isinstance(request, TokenizedGenerateReqInput) else list(request)
    inline = transport == "default"
    lifted = standins.tokenizer_manager(release, prepare is not None)
    at = {die[0]: die[1]} if die and die[0] not in DEATHS else {}
    tokenizer = Tokenizer(lifted.TokenizerManager, requests, n, Faults(**at, fail=fail_send, cancel=cancel))
    if prepare is not None:
        standins.prepare_with(lifted, tokenizer.timed(prepare), points)
    standins.set_transport(release, default=inline, skip_tokenizer_init=skip_tokenizer_init)
    held = [list(arrays(one)) for one in requests]
    folder = Path(tempfile.mkdtemp(prefix="shm-kit-"))
    try:
        session = Session(
            str(folder / "events"), str(folder / "log"), release, inline, skip_tokenizer_init, barrier, die, late
        )
        with (
            bench.schedulers(ranks, release) as schedulers,
            watching() as kernel,
            recorder.recording(session.events, "tokenizer", tokenizer.react, at_once=False),
            standins.plugged(release, hooks or {}, lifted),
        ):
            schedulers.begin(session)
            tokenizer.execute(schedulers, session.events, trace=trace, timeout=timeout)
            schedulers.end()
        events = recorder.read(Path(session.events))
        log = Path(session.log).read_text() if Path(session.log).exists() else ""
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    leftovers = _leftovers(events, sweep=sweep, died=schedulers.dead)
    verdict = _verdict(tokenizer, events, log, release, leftovers)
    mutated = any(not _same(before, list(arrays(one))) for before, one in zip(held, requests, strict=True))
    ours = {event.name for event in events}
    return Run(verdict, tokenizer.sends, events, [seen for seen in kernel if seen.name in ours], mutated, requests)


def _same(before: list, after: list) -> bool:
    return len(before) == len(after) and all(one is other for one, other in zip(before, after, strict=True))


def _verdict(tokenizer: Tokenizer, events: list[Event], log: str, release: str, leftovers: Leftovers) -> Verdict:
    verdict = Verdict(
        "survived",
        n=tokenizer.n,
        answers=tokenizer.answers,
        release=release,
        device="cpu",
        model="none (the lab)",
        seconds=Seconds(generate=tokenizer.seconds, total=tokenizer.seconds),
        leftovers=leftovers,
        events=[vars(event) for event in events],
    )
    if words := last_words.read(log):
        verdict.outcome, verdict.error, verdict.message = "crashed", words.error, words.message
        verdict.errno, verdict.segment, verdict.where = words.errno, words.segment, words.where
        verdict.frames = [frame.text for frame in words.frames]
    elif isinstance(tokenizer.error, SchedulerDied):
        verdict.outcome, verdict.error = "crashed", "scheduler killed by SIGKILL"
    elif isinstance(tokenizer.error, (asyncio.TimeoutError, TimeoutError)):
        verdict.outcome = "hung"
    elif tokenizer.error is not None:
        verdict.outcome, verdict.error = "refused", type(tokenizer.error).__name__
        verdict.message, verdict.errno = str(tokenizer.error), getattr(tokenizer.error, "errno", None)
    return verdict


def _leftovers(events: list[Event], *, sweep: bool, died: bool) -> Leftovers:
    """The names that this run made and that are still there; with `sweep`, they are removed."""
    files = {event.name: SHM / event.name.lstrip("/") for event in events if event.what in NAMING}
    left = [name for name, file in files.items() if file.exists()]
    for name in left if sweep else []:
        files[name].unlink(missing_ok=True)
    for name in files if died or (left and sweep) else []:
        if not files[name].exists():  # else the tracker warns, at the end, that it cannot find it
            resource_tracker.register(name, "shared_memory")  # a file that was made by path is not known to it
            resource_tracker.unregister(name, "shared_memory")
    return Leftovers(segments=left, remaining=[name for name in left if files[name].exists()])
