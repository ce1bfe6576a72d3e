"""One experiment: tokenizer process -> ZMQ -> scheduler process, on a release's lifted code -> `Run`.

The tokenizer's side is this process. The scheduler's side is another process. It is kept for the next experiment unless
it dies. Between them are a real ZMQ socket and real POSIX shared memory. Only the model is missing.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from pathlib import Path

from repro.lab import folders, limits
from repro.lab.evidence import event, inotify, last_words, leftovers
from repro.lab.evidence.event import NAMING, Event
from repro.lab.evidence.in_order import Order
from repro.lab.evidence.inotify import Seen
from repro.lab.evidence.recorder import Recorder
from repro.lab.evidence.turnstile import Turnstile
from repro.lab.evidence.verdict import TOO_LONG, Leftovers, Seconds, Verdict
from repro.lab.lifted.fault import Fault
from repro.lab.lifted.pool import Schedulers, SchedulersGone, pool
from repro.lab.lifted.request import arrays, make_request
from repro.lab.lifted.scheduler_side import Session
from repro.lab.lifted.tokenizer_side import NOBODY, RequestFailed, SchedulerDied, Send, Tokenizer
from repro.lab.upstream.plugs import KILL, Fix, Prepare, around, as_fix
from repro.lab.upstream.release import Release
from repro.lab.upstream.source import INSTALLED
from repro.lab.upstream.standin_data import TokenizedGenerateReqInput

PATIENCE = 5.0  # seconds to wait for the next act of a recorded order
TRANSPORTS = ("shm", "default")


@dataclass(frozen=True)
class Experiment:
    """Send each of `requests` (a batch of prompts) n times, as `release` does it.

    `fix` is what is plugged into sglang's functions: a design, a function that prepares each copied request, or None
    for the code as released. `transport` is `shm` or `default` (inline, as with `dist_init_addr`). `ranks` consumers
    unpickle each request, as tensor-parallel ranks do, with or without the `barrier` before they unwrap. All ranks but
    the first are `late` by this number of seconds. `fault` is the fault that is injected. Without `sweep`, names that
    are left stay, and the caller must remove them. `turnstile` is the address of a turnstile. Its holder decides the
    order of all acts, and kills the processes that the order kills. `order` is an order of acts that an earlier run has
    recorded (`replay`): the acts come in this order again, if they can. `timeout` is in seconds. For a small /dev/shm,
    see `repro.lab.lifted.small_shm`.

    `undone` are the expansion points (1, 2) at which the fix of a fixed release is taken away again. `record` is a file
    to which each event is written at once; it stays after the run. `look` is called with the events, before the sweep.

    Raises ValueError if a field has a wrong value.
    """

    requests: Sequence[TokenizedGenerateReqInput]
    n: int = 2
    release: str = INSTALLED
    fix: Fix | Prepare | None = None
    transport: str = "shm"
    skip_tokenizer_init: bool = False
    ranks: int = 1
    barrier: bool = True
    late: float = 0.0
    fault: Fault | None = None
    sweep: bool = True
    turnstile: str = ""
    undone: Collection[int] = ()
    record: str = ""
    look: Callable[[Sequence[Event]], None] | None = None
    order: Order = ()
    timeout: float = 20.0

    def __post_init__(self) -> None:
        for name, least in (("n", 1), ("ranks", 1), ("late", 0), ("timeout", 0)):
            if not getattr(self, name) >= least:
                raise ValueError(f"{name} = {getattr(self, name)!r} is not possible: give {least} or more")
        if self.transport not in TRANSPORTS:
            raise ValueError(f"transport = {self.transport!r} is not possible: give one of {', '.join(TRANSPORTS)}")

    def run(self, trace: Callable | None = None) -> Run:
        """Make the experiment, and return the run. The run changes the requests, and they are not restored. `trace`
        goes to `sys.settrace` on the tokenizer's thread. Raises Refused if the release is not available, or if the fix
        cannot be plugged into it."""
        fix = as_fix(self.fix)
        release = Release.of(self.release)
        pool.warm_up()
        manager = release.with_the_bug_again(self.undone) if self.undone else release.manager(fix)
        held = [list(arrays(one)) for one in self.requests]
        with limits.uninterrupted(), folders.folder("lab") as folder:
            session = self._session(folder, release)
            tokenizer = Tokenizer(manager.TokenizerManager, self.requests, self.n, self.fault, session.folder)
            prepare = tokenizer.timed(fix.prepare) if fix.prepare else None
            order = session.in_order("tokenizer")
            more = dict(at_once=bool(self.record), react=tokenizer.react, order=order)
            recorder = Recorder(session.events, "tokenizer", details=True, **more)
            if self.turnstile:
                recorder.turnstile = self._turnstile(tokenizer, release, fix)
            recorder.thread = NOBODY  # for now no thread is recorded: other threads of this process make names, too
            notes: list[dict] = []
            account = inotify.Account()
            try:
                with (
                    pool.schedulers(self.ranks, session) as schedulers,
                    inotify.watching() as account,
                    recorder,
                    release.plugged(fix, prepare),
                ):
                    release.set_transport(inline=session.inline, skip_tokenizer_init=self.skip_tokenizer_init)
                    tokenizer.execute(schedulers, recorder, trace=trace, timeout=self.timeout)
                    if order:
                        order.wait_for_others()  # first: `end` kills schedulers that may still have acts to do
                    schedulers.end()
            except SchedulersGone as gone:
                if not gone.killed:
                    raise
                tokenizer.error = SchedulerDied()
            finally:  # after an interrupt, too
                notes, unreadable = event.lines(Path(session.events).read_bytes() if recorder.path.exists() else b"")
                events = event.events(notes)
                if self.look:
                    self.look(events)
                kept = {f"/{name}" for name in fix.kept()}
                left = _leftovers(
                    [each for each in events if each.name not in kept], sweep=self.sweep, died=_died(tokenizer)
                )
            log = Path(session.log)
            log_text = log.read_text(encoding="utf-8") if log.exists() else ""
        verdict = _verdict(tokenizer, events, log_text, release.name, left)
        verdict.missing = event.missing(notes, unreadable)
        ours = {each.name for each in events}
        return Run(
            verdict,
            tokenizer.sends,
            events,
            [seen for seen in account.seen if seen.name in ours],
            any(not _holds(one, before) for before, one in zip(held, self.requests, strict=True)),
            list(self.requests),
            kept,
            [note for note in (account.trouble,) if note],
            log_text,
        )

    def _session(self, folder: Path, release: Release) -> Session:
        inline = self.transport == "default"
        in_the_scheduler = self.fault if self.fault and self.fault.last_event else None
        return Session(
            str(folder),
            release.name,
            inline,
            self.skip_tokenizer_init,
            self.barrier,
            in_the_scheduler,
            self.late,
            self.turnstile,
            self.record,
            self.order,
            PATIENCE + self.late,
        )

    def _turnstile(self, tokenizer: Tokenizer, release: Release, fix: Fix) -> Turnstile:
        """This process's place at the turnstile. The holder also says when the client goes away, and when the tokenizer
        learns that a rank is dead. Then the tokenizer ends as a server does, by sglang's `kill_process_tree`."""
        resource_tracker.ensure_running()
        turnstile = Turnstile(self.turnstile, "tokenizer", tracker=resource_tracker._resource_tracker._pid)

        def kill_the_tree(pid: int) -> None:
            turnstile.ask("kills the tree")
            release.process_tree.kill_process_tree(pid)

        hook = fix.hooks.get(KILL)
        kill = around(kill_the_tree, hook) if hook else kill_the_tree
        turnstile.told = {"gone": tokenizer.client_goes_away, "learn": lambda: kill(os.getpid())}
        return turnstile


@dataclass
class Run:
    """The result of an experiment. `verdict` is a `Verdict`, as for the engine. `events` is the recorder's account, and
    `kernel` is inotify's account. `mutated` says whether the source requests have lost the features that they held.
    `kept` are the names that the fix keeps for the next request. `notes` say what is missing in the accounts. `log` is
    the text that the schedulers wrote."""

    verdict: Verdict
    sends: list[Send]
    events: list[Event]
    kernel: list[Seen]
    mutated: bool
    requests: list[TokenizedGenerateReqInput]
    kept: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    log: str = ""

    def __repr__(self) -> str:
        told = self.verdict.error or _counted(self.verdict.answers or [], "answer")
        return f"<Run {self.verdict.outcome}: {told}; {_counted(self.sends, 'send')}, {_counted(self.names, 'name')}>"

    @property
    def names(self) -> list[str]:
        """The names that the run created, in order."""
        return [event.name for event in self.events if event.what in NAMING]

    @property
    def labels(self) -> list[str]:
        """The label of each send: `warm-up`, `sample 1`, ..."""
        return [send.label for send in self.sends]

    def faults(self) -> list[str]:
        """The faults of ownership, one line each. The list is empty if the run survived, every send had names and a
        bootstrap room of its own, each name was unlinked exactly once, the bytes were intact, the source was not
        mutated, and nothing was left."""
        sent = [name for send in self.sends for name in send.names]
        made = [name for name in self.names if name not in self.kept]
        unlinked = [event.name for event in self.events if event.what == "unlink"]
        faults = [f"{self.verdict.outcome}: {self.verdict.error}"] if self.verdict.outcome != "survived" else []
        faults += [f"{name} was sent {k} times" for name in dict.fromkeys(sent) if (k := sent.count(name)) > 1]
        rooms = [send.room for send in self.sends if send.room is not None]
        faults += [f"room {room} was sent {k} times" for room in dict.fromkeys(rooms) if (k := rooms.count(room)) > 1]
        faults += [f"{name} was unlinked {k} times" for name in made if (k := unlinked.count(name)) != 1]
        faults += [f"{send.label} did not arrive intact" for send in self.sends if send.intact is False]
        if self.mutated and self.verdict.n > 1:  # with n = 1 nothing is copied: the source itself is sent
            faults.append("the source request was mutated")
        return faults + [f"{name} was left in /dev/shm" for name in self.verdict.leftovers.segments]


def run(
    request: TokenizedGenerateReqInput | Sequence[TokenizedGenerateReqInput] | None = None, **fields: object
) -> Run:
    """Run an `Experiment` with these fields now. `request` is one request, or several requests for a batch of prompts.
    By default it is one request with one image. Raises what `Experiment` and `Experiment.run` raise."""
    trace = fields.pop("trace", None)
    pool.warm_up()
    request = make_request() if request is None else request
    requests = [request] if isinstance(request, TokenizedGenerateReqInput) else list(request)
    return Experiment(requests, **fields).run(trace)


def _counted(things: Sequence[object], noun: str) -> str:
    return f"{len(things)} {noun}{'s' * (len(things) != 1)}"


def _died(tokenizer: Tokenizer) -> bool:
    schedulers: Schedulers | None = getattr(tokenizer, "schedulers", None)
    return schedulers is None or schedulers.dead


def _holds(request: TokenizedGenerateReqInput, before: list) -> bool:
    """Whether the request holds the same arrays as before. A fix may have replaced them by anything."""
    try:
        after = list(arrays(request))
    except (AttributeError, TypeError):
        return False
    return len(before) == len(after) and all(one is other for one, other in zip(before, after, strict=True))


def _verdict(tokenizer: Tokenizer, events: list[Event], log: str, release: str, left: Leftovers) -> Verdict:
    verdict = Verdict(
        "survived",
        n=tokenizer.n,
        answers=tokenizer.answers,
        release=release,
        device="cpu",
        model="none (the lab)",
        seconds=Seconds(generate=tokenizer.seconds, total=tokenizer.seconds),
        leftovers=left,
        events=[vars(event) for event in events],
    )
    error = tokenizer.error
    contained = isinstance(error, RequestFailed)
    if (words := last_words.read(log)) and (contained or _died(tokenizer)):
        verdict.died_of(words)
        if contained:  # the scheduler reported the failure, and lives on
            verdict.outcome, verdict.dying = "refused", None
    elif isinstance(error, SchedulerDied):
        verdict.outcome, verdict.error = "crashed", "scheduler killed by SIGKILL"
    elif isinstance(error, (asyncio.TimeoutError, TimeoutError)):
        verdict.outcome, verdict.error = "hung", TOO_LONG
    elif error is not None:
        verdict.outcome, verdict.error = "refused", type(error).__name__
        verdict.message, verdict.errno = str(error), getattr(error, "errno", None)
    return verdict


def _leftovers(events: list[Event], *, sweep: bool, died: bool) -> Leftovers:
    """The names that this run made and that are still there; with `sweep`, they are removed."""
    left = [each.name for each in leftovers.left(events)]
    remaining = [f"/{name}" for name in leftovers.sweep(events)[1]] if sweep else left
    for name in {each.name for each in events if each.what in NAMING} if died or (left and sweep) else ():
        if name not in remaining:
            _forget(name)
    return Leftovers(segments=left, remaining=remaining)


def _forget(name: str) -> None:
    """Let the resource tracker forget a name that is gone. A killed scheduler did not tell the tracker that the name
    was unlinked, so the tracker would warn at the end that it cannot find the name. The tracker complains about a name
    that it does not know, such as the name of a plain file. So the name is registered first."""
    resource_tracker.register(name, "shared_memory")
    resource_tracker.unregister(name, "shared_memory")
