"""The scheduler's side of an experiment: a process that receives requests as sglang's scheduler does, without a model.

The process is forked from a small warm parent that has imported torch (multiprocessing's forkserver). It serves one
experiment after another until it dies. It dies as sglang's scheduler does: it prints the traceback and is killed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
import traceback
from collections.abc import Iterator
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
from repro.lab.upstream import standins
from repro.lab.upstream.release import Release

PATIENCE = 10.0  # seconds for another rank to come to the barrier


@dataclass(frozen=True)
class Session:
    """The scheduler's instructions for one experiment. `folder` is the experiment's own folder, with its record
    (`events`) and its `log`. Rank 0 receives from the tokenizer and forwards to the other ranks. The other ranks wait
    `late` seconds before they receive. Rank 0 carries out the `fault`."""

    folder: str
    release: str
    inline: bool = False
    skip_tokenizer_init: bool = False
    barrier: bool = True
    fault: Fault | None = None
    late: float = 0.0
    turnstile: str = ""  # the address of the turnstile, if there is one
    record: str = ""  # the file that gets the events, if it is not in the folder
    order: Order = ()  # recorded acts, if the acts are to come in this order
    patience: float = 0.0  # seconds to wait for the turn of such an act

    @property
    def events(self) -> str:
        """The file to which all processes of the experiment write their events."""
        return self.record or f"{self.folder}/events"

    @property
    def log(self) -> str:
        """The file to which the schedulers write their last words and sglang's messages."""
        return f"{self.folder}/log"

    def in_order(self, role: str) -> InOrder | None:
        """The place of the process with this role in the order, if there is one."""
        return InOrder(f"{self.folder}/next", self.order, role, self.patience) if self.order else None


@dataclass(frozen=True)
class Place:
    """A scheduler's rank, the addresses of its sockets, and the folders that it removes if the tokenizer's process has
    ended without removing them. The first folder holds that process's lock."""

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

    @property
    def size(self) -> int:
        """1 if there is one rank, else 2 or more. Only the first rank knows how many ranks there are: any other rank
        has one pipe, so its `size` is 2."""
        return len(self.pipes) + 1

    def wait(self) -> None:
        """Return when every rank is at the barrier. Raises TimeoutError if a rank does not come, RankDied if a rank has
        died."""
        self.maximum(0)

    def maximum(self, value: int) -> int:
        """The largest value that any rank gives. Returns when every rank is at the barrier, and raises as `wait`
        does."""
        try:
            if not self.first:
                self.pipes[0].send(value)
            for pipe in self.pipes:
                if not pipe.poll(PATIENCE):
                    raise TimeoutError("a rank did not come to the barrier")
                value = max(value, pipe.recv())
            if self.first:
                for pipe in self.pipes:
                    pipe.send(value)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise RankDied from None
        return value


def serve(place: Place, control: Connection, barrier: Barrier, release: str) -> None:
    """Run sessions until the control pipe is closed. A scheduler's process runs this function, and nothing else. The
    code of `release` is lifted before the first session."""
    # A session of its own: Ctrl-C, and Jupyter's SIGKILL of a whole group, must reach only the tokenizer's process.
    # Then the pipe closes. So this process ends, too, and removes what the tokenizer's process could not remove.
    os.setsid()
    folders.let_go()  # the folders' locks that the fork has inherited
    scheduler = None
    try:
        scheduler = Scheduler(place, control, barrier)
        Release.of(release).mm_utils  # noqa: B018
        control.send("up")
        while True:
            scheduler.session = control.recv()
            scheduler.run()
    except (EOFError, OSError, zmq.ZMQError):  # the tokenizer's process is gone, or it has closed the pipe
        own, *others = map(Path, place.folders)
        if scheduler:
            scheduler.context.destroy(linger=0)
            others += [Path(scheduler.session.folder)] if scheduler.session else []
        folders.remove_when_abandoned(own, *others)


class Scheduler:
    """One rank of the scheduler. `session` is the current experiment."""

    def __init__(self, place: Place, control: Connection, barrier: Barrier) -> None:
        self.place, self.control, self.barrier = place, control, barrier
        self.session: Session | None = None
        self.context = zmq.Context()
        self.context.sndhwm = self.context.rcvhwm = 0  # as in sglang: a socket queues any number of messages
        self.inbox, self.outbox = self.context.socket(zmq.PULL), self.context.socket(zmq.PUSH)
        self.inbox.bind(place.inbox)
        self.outbox.connect(place.outbox)
        self.others = [self.context.socket(zmq.PUSH) for _ in place.others]
        for other, address in zip(self.others, place.others, strict=True):
            other.reconnect_ivl = 5  # ms: the other rank's socket may not be there yet
            other.connect(address)

    @property
    def role(self) -> str:
        """The role of this process in events: `scheduler` for rank 0, `scheduler 1` for rank 1, ..."""
        return f"scheduler {self.place.rank}" if self.place.rank else "scheduler"

    def run(self) -> None:
        """Run one session: serve requests until the tokenizer says that the session is over. Raises EOFError if the
        tokenizer is gone."""
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
        except RankDied:  # the dead rank itself has written the reason
            _kill_myself()
        except Exception:
            with open(self.session.log, "a", encoding="utf-8") as log:
                log.write(f"Scheduler hit an exception: {traceback.format_exc()}\n")
            _kill_myself()

    def _receive(self) -> None:
        """Receive one request, restore its features, compare their bytes, and send the answer."""
        if self.place.rank:
            time.sleep(self.session.late)
        request = self.inbox.recv_pyobj()
        for other in self.others:
            with self.recorder.turn("forward"):
                other.send_pyobj(request)
        if self.release.mm_utils:
            if self.session.barrier and self._came_as_a_pointer(request):
                self.barrier.wait()
            with self.recorder.turn("read"):
                pass  # the turn only decides when the reading below begins
            self._unwrap(request)
        if self.place.rank == 0:
            answer = {"run": self.session.folder, "rid": request.rid, "intact": False, "error": ""}
            if isinstance(request.mm_inputs, Exception):
                answer["error"] = str(request.mm_inputs)
            else:
                answer["intact"] = checksums(request) == request.checksums
            with self.recorder.turn("answer"):
                self.outbox.send_pyobj(answer)

    def _unwrap(self, request: Any) -> None:
        """As the release does it: from 0.5.19 on, a failure is put in the place of the request's `mm_inputs`."""
        if self.release.receiver:
            with _logged(self.session.log):
                self.release.receiver.SchedulerRequestReceiver(self.barrier)._finalize_shm_features([request])
        else:
            self.release.mm_utils.unwrap_shm_features(request)

    def _came_as_a_pointer(self, request: Any) -> bool:
        """Whether any feature of the request came as a pointer, by the release's `has_shm_features`. False for 0.5.9,
        which does not have this function."""
        lifted = self.release.mm_utils
        return "has_shm_features" in lifted.lines and lifted.has_shm_features([request])

    def _react(self, event: Event) -> None:
        """Die right after the event of the session's fault."""
        fault = self.session.fault
        if fault and not self.place.rank and (event.what, event.send) == (fault.last_event, fault.send):
            _kill_myself()


@contextlib.contextmanager
def _logged(path: str) -> Iterator[None]:
    """While the context lasts, what sglang's functions log goes to the experiment's log."""
    handler = logging.FileHandler(path, encoding="utf-8", delay=True)
    standins.logger.addHandler(handler)
    try:
        yield
    finally:
        standins.logger.removeHandler(handler)
        handler.close()


def _kill_myself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
