"""The scheduler's side of an experiment: a process that receives requests as sglang's scheduler does, without a model.

It is forked from a small warm parent that has torch imported (multiprocessing's forkserver), lives for as many
experiments as it survives, and dies as sglang's scheduler does: it prints the traceback and is killed.
"""

from __future__ import annotations

import os
import signal
import time
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import zmq

from repro.lab import folders
from repro.lab.evidence.event import Event
from repro.lab.evidence.in_order import InOrder, Order
from repro.lab.evidence.recorder import Recorder
from repro.lab.evidence.turnstile import Turnstile
from repro.lab.lifted.fault import Fault
from repro.lab.lifted.request import checksums
from repro.lab.upstream.release import Release

PATIENCE = 10.0  # seconds for another rank to come to the barrier


@dataclass(frozen=True)
class Session:
    """What a scheduler is told before an experiment. `folder` is the experiment's own, with its record (`events`) and
    its `log`. Rank 0 receives from the tokenizer and forwards to the other ranks; `late` is how many seconds those take
    to look. `fault` is carried out by rank 0."""

    folder: str
    release: str
    inline: bool = False
    skip_tokenizer_init: bool = False
    barrier: bool = True
    fault: Fault | None = None
    late: float = 0.0
    turnstile: str = ""  # the address of one, if there is one
    order: Order = ()  # of acts that were recorded before, if they are to come in that order
    patience: float = 0.0  # seconds, for such an act

    @property
    def events(self) -> str:
        return f"{self.folder}/events"

    @property
    def log(self) -> str:
        return f"{self.folder}/log"

    def in_order(self, role: str) -> InOrder | None:
        """The place of the process with this role in the order, if there is one."""
        return InOrder(f"{self.folder}/next", self.order, role, self.patience) if self.order else None


@dataclass(frozen=True)
class Place:
    """Where a scheduler stands: its rank, the addresses of the sockets, and the folders that it removes when the
    tokenizer's process has gone without doing so: the first holds that process's lock."""

    rank: int
    folders: tuple[str, ...]
    inbox: str
    outbox: str
    others: tuple[str, ...] = ()


class RankDied(Exception):
    """Another rank's process ended while this one waited for it."""


class Barrier:
    """One rank's part of a barrier over pipes. (multiprocessing's own leaves named semaphores in /dev/shm.)"""

    def __init__(self, pipes: list[Connection], *, first: bool) -> None:
        self.pipes, self.first = pipes, first

    def wait(self) -> None:
        """Return when every rank is here. Raises TimeoutError if one does not come, RankDied if one has died."""
        try:
            if not self.first:
                self.pipes[0].send("here")
            for pipe in self.pipes:
                if not pipe.poll(PATIENCE):
                    raise TimeoutError("a rank did not come to the barrier")
                pipe.recv()
            if self.first:
                for pipe in self.pipes:
                    pipe.send("go")
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise RankDied from None


def serve(place: Place, control: Connection, barrier: Barrier, release: str) -> None:
    """Run sessions until the control pipe is closed. The target of the process. `release` is lifted beforehand."""
    # A session of its own: Ctrl-C, and the SIGKILL of a whole group by Jupyter, are for the tokenizer's process. The
    # pipe that closes then ends this one, which removes what that process could not.
    os.setsid()
    folders.let_go()  # of what was inherited by a fork
    scheduler = None
    try:
        scheduler = Scheduler(place, control, barrier)
        Release.of(release).mm_utils  # noqa: B018
        control.send("up")
        while True:
            scheduler.session = control.recv()
            scheduler.run()
    except (EOFError, OSError, zmq.ZMQError):  # the tokenizer's process is gone, or it was interrupted and let go of us
        own, *others = map(Path, place.folders)
        if scheduler:
            scheduler.context.destroy(linger=0)
            others += [Path(scheduler.session.folder)] if scheduler.session else []
        folders.remove_when_abandoned(own, *others)


class Scheduler:
    """One rank. `session` is the experiment at hand."""

    def __init__(self, place: Place, control: Connection, barrier: Barrier) -> None:
        self.place, self.control, self.barrier = place, control, barrier
        self.session: Session | None = None
        self.context = zmq.Context()
        self.context.sndhwm = self.context.rcvhwm = 0  # as sglang has it: a socket takes what it is given
        self.inbox, self.outbox = self.context.socket(zmq.PULL), self.context.socket(zmq.PUSH)
        self.inbox.bind(place.inbox)
        self.outbox.connect(place.outbox)
        self.others = [self.context.socket(zmq.PUSH) for _ in place.others]
        for other, address in zip(self.others, place.others, strict=True):
            other.reconnect_ivl = 5  # ms: they may not be there yet
            other.connect(address)

    @property
    def role(self) -> str:
        return f"scheduler {self.place.rank}" if self.place.rank else "scheduler"

    def run(self) -> None:
        """One session: requests until the tokenizer says that it is over. Raises EOFError if the tokenizer is gone."""
        session = self.session
        self.release = Release.of(session.release)
        self.release.set_transport(inline=session.inline, skip_tokenizer_init=session.skip_tokenizer_init)
        turnstile = Turnstile(session.turnstile, f"rank {self.place.rank}") if session.turnstile else None
        more = dict(react=self._react, turnstile=turnstile, order=session.in_order(self.role))
        self.recorder = Recorder(session.events, self.role, details=True, **more)
        with self.recorder:
            self.control.send("ready")
            self._serve_requests()
            self.control.send("done")

    def _serve_requests(self) -> None:
        poller = zmq.Poller()
        poller.register(self.inbox, zmq.POLLIN)
        poller.register(self.control.fileno(), zmq.POLLIN)
        send = 0
        while True:
            ready = dict(poller.poll())
            if self.inbox in ready:
                self.recorder.about(send)
                self._receive_or_die()
                send += 1
            elif self.control.fileno() in ready:
                self.control.recv()
                return

    def _receive_or_die(self) -> None:
        """As in sglang's `run_scheduler_process` (scheduler.py): any exception ends the scheduler."""
        try:
            self._receive()
        except RankDied:  # that rank has told why
            _kill_myself()
        except Exception:
            with open(self.session.log, "a", encoding="utf-8") as log:
                log.write(f"Scheduler hit an exception: {traceback.format_exc()}\n")
            _kill_myself()

    def _receive(self) -> None:
        """Receive one request, restore its features, compare their bytes, and answer."""
        if self.place.rank:
            time.sleep(self.session.late)
        request = self.inbox.recv_pyobj()
        for other in self.others:
            with self.recorder.turn("forward"):
                other.send_pyobj(request)
        if lifted := self.release.mm_utils:
            if self.session.barrier and self._came_as_a_pointer(request):
                self.barrier.wait()
            with self.recorder.turn("read"):
                pass  # what is read, is read next
            lifted.unwrap_shm_features(request)
        if self.place.rank == 0:
            intact = checksums(request) == request.checksums
            with self.recorder.turn("answer"):
                self.outbox.send_pyobj({"run": self.session.folder, "rid": request.rid, "intact": intact})

    def _came_as_a_pointer(self, request: Any) -> bool:
        """Whether anything of the request did; 0.5.9, which has no function for it, is never asked."""
        lifted = self.release.mm_utils
        return "has_shm_features" in lifted.lines and lifted.has_shm_features([request])

    def _react(self, event: Event) -> None:
        """Die right after the event of the session's fault."""
        fault = self.session.fault
        if fault and not self.place.rank and (event.what, event.send) == (fault.last_event, fault.send):
            _kill_myself()


def _kill_myself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
