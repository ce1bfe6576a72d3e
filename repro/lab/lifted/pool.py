"""The schedulers that experiments talk to: started when first needed, kept while they live, replaced when they die."""

from __future__ import annotations

import atexit
import itertools
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver, get_context
from typing import Any

import zmq

from repro.lab.lifted.scheduler_side import Barrier, Place, Session, serve

PATIENCE = 60.0  # seconds: the first scheduler's warm parent has to import torch


class Schedulers:
    """The scheduler processes of one server: rank 0, and as many others as it has tensor-parallel ranks."""

    def __init__(self, context: zmq.Context, folder: str, ranks: int, release: str) -> None:
        number = next(_numbers)
        inboxes = [f"ipc://{folder}/{number}.{rank}" for rank in range(ranks)]
        answers = f"ipc://{folder}/{number}.answers"
        self.inbox = context.socket(zmq.PULL)
        self.inbox.bind(answers)
        processes = get_context("forkserver")
        barriers = _barriers(processes, ranks)
        self.processes, self.controls, self.dead = [], [], False
        for rank, inbox in enumerate(inboxes):
            ours, theirs = processes.Pipe()
            place = Place(rank, inbox, answers, tuple(inboxes[1:]) if rank == 0 else ())
            process = processes.Process(target=serve, args=(place, theirs, barriers[rank], release), daemon=True)
            process.start()
            theirs.close()
            self.processes.append(process)
            self.controls.append(ours)
        self.up = False
        self.first_inbox = inboxes[0]
        self.outbox = context.socket(zmq.PUSH)

    def wait_until_up(self) -> None:
        """Wait until every rank has been started. Raises OSError if one does not come up."""
        if not self.up:
            self._expect("up")
            self.outbox.connect(self.first_inbox)  # only now: ZMQ waits 100 ms before it tries a second time
            self.up = True

    def begin(self, session: Session) -> None:
        """Tell every rank about the run that comes, and wait until all are ready."""
        for control in self.controls:
            control.send(session)
        self._expect("ready")

    def end(self) -> None:
        """Tell every rank that the run is over; if one has died or does not answer, the others go too."""
        if not self.dead:
            try:
                for control in self.controls:
                    control.send("over")
                self._expect("done", 15)
            except (OSError, EOFError):
                self.dead = True
        if self.dead:
            self.close()

    def close(self) -> None:
        """Kill what is left and give back every descriptor."""
        for process in self.processes:
            process.kill()
            process.join()
            process.close()
        for control in self.controls:
            control.close()
        self.inbox.close(linger=0)
        self.outbox.close(linger=0)
        self.dead = True

    def _expect(self, word: str, seconds: float = PATIENCE) -> None:
        for control in self.controls:
            if not control.poll(seconds) or control.recv() != word:
                raise OSError(f"a scheduler did not say {word!r} within {seconds:g} s")


class Bench:
    """Holds, for each number of ranks, the schedulers that are alive, and a spare set that is starting."""

    def __init__(self) -> None:
        self.alive: dict[int, Schedulers] = {}
        self.spare: dict[int, Schedulers] = {}
        self.folder: str | None = None

    def warm_up(self) -> None:
        """Let the warm parent, from which schedulers are forked, import torch while this process does."""
        if self.folder is None:
            self.folder = tempfile.mkdtemp(prefix="shm-kit-bench-")
            self.context = zmq.Context()
            atexit.register(self.close)
            get_context("forkserver").set_forkserver_preload(["repro.lab.lifted.preload"])
            forkserver.ensure_running()

    @contextmanager
    def schedulers(self, ranks: int, release: str) -> Iterator[Schedulers]:
        """Living schedulers: those of the run before, else the spare ones, else new ones. What dies is replaced at
        once, without waiting for it."""
        chosen = self.alive.pop(ranks, None) or self.spare.pop(ranks, None) or self._start(ranks, release)
        chosen.wait_until_up()
        try:
            yield chosen
        except BaseException:
            chosen.close()
            raise
        if not chosen.dead:
            self.alive[ranks] = chosen
        elif ranks not in self.spare:
            self.spare[ranks] = self._start(ranks, release)

    def close(self) -> None:
        """End every scheduler and remove the sockets."""
        for schedulers in (*self.alive.values(), *self.spare.values()):
            schedulers.close()
        self.alive.clear()
        self.spare.clear()
        if self.folder:
            self.context.destroy(linger=0)
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = None

    def _start(self, ranks: int, release: str) -> Schedulers:
        return Schedulers(self.context, self.folder, ranks, release)


def _barriers(processes: Any, ranks: int) -> list[Barrier]:
    pipes = [processes.Pipe() for _ in range(ranks - 1)]
    return [Barrier([ours for ours, _ in pipes], first=True), *(Barrier([theirs], first=False) for _, theirs in pipes)]


_numbers = itertools.count()
bench = Bench()
