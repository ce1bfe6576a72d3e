"""The consumer: a process that receives requests as sglang's scheduler does, with everything but the model.

It is forked from a small warm parent that has torch imported (multiprocessing's forkserver), lives for as many runs
as it survives, and dies as sglang's does: it prints the traceback and is killed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import zmq

from repro.lab.evidence import recorder
from repro.lab.lifted.request import checksums
from repro.lab.upstream import standins

DEATHS = {"open": "open", "clone": "close", "unlink": "unlink"}  # moment of a send -> the event that ends it


@dataclass(frozen=True)
class Session:
    """What a scheduler is told before a run. Rank 0 receives from the tokenizer and forwards to the other ranks;
    `die` names a moment of DEATHS and a send at which rank 0 is killed; `late` is how long the other ranks take to
    look."""

    events: str
    log: str
    release: str
    default_transport: bool = False
    skip_tokenizer_init: bool = False
    barrier: bool = True
    die: tuple[str, int] | None = None
    late: float = 0.0


@dataclass(frozen=True)
class Place:
    """Where a scheduler stands: its rank, and the addresses of the sockets."""

    rank: int
    inbox: str
    outbox: str
    others: tuple[str, ...] = ()


class Barrier:
    """One rank's part of a barrier over pipes. (multiprocessing's own leaves named semaphores in /dev/shm.)"""

    def __init__(self, pipes: list[Connection], *, first: bool) -> None:
        self.pipes, self.first = pipes, first

    def wait(self) -> None:
        """Return when every rank is here. Raises TimeoutError if one does not come."""
        if not self.first:
            self.pipes[0].send("here")
        for pipe in self.pipes:
            if not pipe.poll(10):
                raise TimeoutError("a rank did not come to the barrier")
            pipe.recv()
        if self.first:
            for pipe in self.pipes:
                pipe.send("go")


def serve(place: Place, control: Connection, barrier: Barrier, release: str) -> None:
    """Run sessions until the control pipe is closed. The target of the process. `release` is lifted beforehand."""
    os.setsid()  # Ctrl-C, and the SIGKILL of a whole group by Jupyter, are for the tokenizer's process. The pipe that
    # closes then ends this one, which removes what that process could not.
    context = zmq.Context()
    inbox, outbox = context.socket(zmq.PULL), context.socket(zmq.PUSH)
    inbox.bind(place.inbox)
    outbox.connect(place.outbox)
    others = [context.socket(zmq.PUSH) for _ in place.others]
    for other, address in zip(others, place.others, strict=True):
        other.reconnect_ivl = 5  # ms: they may not be there yet
        other.connect(address)
    role = f"scheduler {place.rank}" if place.rank else "scheduler"
    standins.mm_utils(release)
    session = None
    with contextlib.suppress(EOFError, OSError):  # the tokenizer's process is gone
        control.send("up")
        while True:
            session = control.recv()
            standins.set_transport(
                session.release, default=session.default_transport, skip_tokenizer_init=session.skip_tokenizer_init
            )
            with recorder.recording(session.events, role, _deadly(session, place)):
                control.send("ready")
                _run(session, place, control, inbox, outbox, others, barrier)
                control.send("done")
    context.destroy(linger=0)
    for path in {place.inbox.removeprefix("ipc://"), session.events if session else ""} - {""}:
        shutil.rmtree(os.path.dirname(path), ignore_errors=True)  # the tokenizer's process was killed, and could not


def _run(session: Session, place: Place, control: Connection, inbox, outbox, others, barrier) -> None:
    """One session: requests until the tokenizer says that it is over."""
    poller = zmq.Poller()
    poller.register(inbox, zmq.POLLIN)
    poller.register(control.fileno(), zmq.POLLIN)
    send = 0
    try:
        while True:
            ready = dict(poller.poll())
            if inbox in ready:
                recorder.about(send)
                _receive(session, place, send, inbox, outbox, others, barrier)
                send += 1
            elif control.fileno() in ready:
                control.recv()  # EOFError if the tokenizer's process is gone
                return
    except EOFError:
        raise
    except Exception:  # as in sglang's run_scheduler_process: anything ends the scheduler
        with open(session.log, "a") as log:
            log.write(f"Scheduler hit an exception: {traceback.format_exc()}\n")
        _kill_myself()


def _receive(session: Session, place: Place, send: int, inbox, outbox, others, barrier) -> None:
    """Receive one request, restore its features, compare their bytes, and answer."""
    if place.rank:
        time.sleep(session.late)
    request = inbox.recv_pyobj()
    for other in others:
        other.send_pyobj(request)
    lifted = standins.mm_utils(session.release)
    if lifted:
        if session.barrier and _has_shm(lifted, request):
            barrier.wait()
        lifted.unwrap_shm_features(request)
    if place.rank == 0:
        outbox.send_pyobj(
            {"run": session.events, "rid": request.rid, "intact": checksums(request) == request.checksums}
        )


def _has_shm(lifted: standins.Lifted, request: Any) -> bool:
    """Whether anything of the request came as a pointer; 0.5.9, which has no function for it, is never asked."""
    return "has_shm_features" in lifted.lines and lifted.has_shm_features([request])


def _deadly(session: Session, place: Place) -> Callable[[recorder.Event], None] | None:
    """Kills this process right after the event at which the session says that it dies."""
    if session.die is None or place.rank or session.die[0] not in DEATHS:
        return None
    last = (DEATHS[session.die[0]], session.die[1])
    return lambda event: _kill_myself() if (event.what, event.send) == last else None


def _kill_myself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
