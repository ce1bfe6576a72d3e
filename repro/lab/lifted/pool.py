"""The scheduler processes for experiments. They are started when they are first needed. Living ones are kept for the
next experiment, and dead ones are replaced."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver, get_context, util
from pathlib import Path
from types import ModuleType
from typing import Any

import zmq

from repro.lab import folders, limits
from repro.lab.lifted.scheduler_side import Barrier, Place, Session, serve

PATIENCE = 60.0  # seconds: the first scheduler's warm parent has to import torch
PRELOAD = "repro.lab.lifted.preload"


class SchedulersGone(OSError):
    """A scheduler has ended or does not answer, although no request is on its way. `killed`: it ended by SIGKILL."""

    def __init__(self, what: str, *, killed: bool = False) -> None:
        super().__init__(what)
        self.killed = killed


class Schedulers:
    """The scheduler processes of one server, one for each of its `ranks`.

    `folder` holds their sockets. `of_multiprocessing` is another folder that the processes remove if this process is
    killed. `release` is lifted when a process starts.
    """

    def __init__(
        self,
        context: zmq.Context,
        folder: Path,
        ranks: int,
        release: str,
        of_multiprocessing: str,
        start_method: str = "forkserver",
    ) -> None:
        number = next(_numbers)
        inboxes = [f"ipc://{folder}/{number}.{rank}" for rank in range(ranks)]
        answers = f"ipc://{folder}/{number}.answers"
        self.processes, self.controls, self.dead, self.up = [], [], False, False
        self.first_inbox = inboxes[0]
        self.inbox, self.outbox = context.socket(zmq.PULL), context.socket(zmq.PUSH)
        try:
            self.inbox.bind(answers)
            processes = get_context(start_method)
            barriers = _barriers(processes, ranks)
            for rank, inbox in enumerate(inboxes):
                ours, theirs = processes.Pipe()
                self.controls.append(ours)
                others = tuple(inboxes[1:]) if rank == 0 else ()
                goes = tuple(filter(None, (str(folder), of_multiprocessing)))
                place = Place(rank, goes, inbox, answers, others)
                process = processes.Process(target=serve, args=(place, theirs, barriers[rank], release), daemon=True)
                with _without_main(), limits.uninterrupted():
                    process.start()
                self.processes.append(process)
                theirs.close()
        except BaseException:  # an interrupt, too
            self.close()
            raise

    def are_alive(self) -> bool:
        """Whether every rank's process is alive."""
        return not self.dead and all(process.is_alive() for process in self.processes)

    def wait_until_up(self) -> None:
        """Wait until every rank has started. Raises SchedulersGone if a rank does not start."""
        if not self.up:
            self._expect("up")
            self.outbox.connect(self.first_inbox)  # not earlier: after a failed try, ZMQ waits 100 ms
            self.up = True

    def begin(self, session: Session) -> None:
        """Tell every rank about the next experiment, and wait until all ranks are ready. Raises SchedulersGone."""
        for control in self.controls:
            with contextlib.suppress(OSError):  # the rank has died, so it will not say that it is ready
                control.send(session)
        self._expect("ready")

    def end(self) -> None:
        """Tell every rank that the experiment is over. If one rank has died or does not answer, the others are ended,
        too."""
        if not self.dead:
            try:
                for control in self.controls:
                    control.send("over")
                self._expect("done", 15)
            except OSError:
                self.dead = True
        if self.dead:
            self.close()

    def close(self) -> None:
        """Kill the processes that are left, and close every descriptor."""
        if self in _abandoned:
            return
        for process in self.processes:
            process.kill()
            process.join()
            process.close()
        for control in self.controls:
            control.close()
        self.inbox.close(linger=0)
        self.outbox.close(linger=0)
        self.processes, self.controls, self.dead = [], [], True

    def abandon(self) -> None:
        """Kill the processes and keep the sockets: a thread that cannot be stopped may still be using them."""
        for process in self.processes:
            process.kill()
            process.join()
        self.processes, self.dead = [], True
        _abandoned.append(self)

    def _expect(self, word: str, seconds: float = PATIENCE) -> None:
        for control in self.controls:
            try:
                said = control.recv() if control.poll(seconds) else f"nothing within {seconds:g} s"
            except (EOFError, OSError):
                raise SchedulersGone(
                    f"a scheduler ended before it said {word!r}", killed=self._is_one_killed()
                ) from None
            if said != word:
                raise SchedulersGone(f"a scheduler was to say {word!r}, and said {said}")

    def _is_one_killed(self) -> bool:
        for process in self.processes:
            process.join(1)
            if process.exitcode == -signal.SIGKILL:
                return True
        return False


class Pool:
    """The living schedulers for each number of ranks, and a spare set that is starting. They are forked from a warm
    parent. With `start_method` = "fork", they are forked from this process, which must then have no threads."""

    def __init__(self, start_method: str = "forkserver") -> None:
        self.start_method = start_method
        self.of_multiprocessing = ""  # multiprocessing's temporary folder, with the warm parent's socket
        self.alive: dict[int, Schedulers] = {}
        self.spare: dict[int, Schedulers] = {}
        self.folder: Path | None = None

    def warm_up(self) -> None:
        """Start the warm parent, from which schedulers are forked. It imports torch while this process imports
        torch."""
        if self.folder is None or not self.folder.is_dir():
            with limits.uninterrupted():
                self._warm_up()

    def _warm_up(self) -> None:
        self.close()
        self.folder = folders.make("pool")
        self.context = zmq.Context()
        self.context.sndhwm = self.context.rcvhwm = 0  # as in sglang; otherwise many sends would wait for each other
        atexit.register(self.close)
        if self.start_method == "forkserver":
            get_context("forkserver").set_forkserver_preload([PRELOAD])
            with _without_main(), folders.temporary_files_there():
                forkserver.ensure_running()
                self.of_multiprocessing = util.get_temp_dir()  # this folder stays if this process is killed

    @contextmanager
    def schedulers(self, ranks: int, session: Session) -> Iterator[Schedulers]:
        """Living schedulers that are ready for the session: those of the last experiment, else the spare set, else new
        ones. If they die, a new spare set starts in the background. Raises SchedulersGone if no set starts."""
        chosen = self._ready(ranks, session)
        try:
            yield chosen
        except BaseException:
            chosen.close()
            raise
        if not chosen.dead:
            self.alive[ranks] = chosen
        elif ranks not in self.spare:
            self.spare[ranks] = self._start(ranks, session.release)

    def close(self) -> None:
        """End every scheduler and remove the sockets."""
        for schedulers in (*self.alive.values(), *self.spare.values()):
            schedulers.close()
        self.alive.clear()
        self.spare.clear()
        if self.folder:
            self.context.destroy(linger=0)
            folders.remove(self.folder)
            self.folder = None

    def _ready(self, ranks: int, session: Session) -> Schedulers:
        """The first set of schedulers that is ready. Idle schedulers may have been killed without notice."""
        for last in (False, False, True):
            living = self._living(self.alive, ranks) or self._living(self.spare, ranks)
            chosen = living or self._start(ranks, session.release)
            try:
                with limits.interruptible():
                    chosen.wait_until_up()
                    chosen.begin(session)
                return chosen
            except BaseException as error:
                chosen.close()
                if last or not isinstance(error, SchedulersGone):
                    raise
        raise AssertionError

    def _living(self, held: dict[int, Schedulers], ranks: int) -> Schedulers | None:
        """Take out the held schedulers for this number of ranks. None if there are none, or if one of them has died."""
        found = held.pop(ranks, None)
        if found and not found.are_alive():
            found.close()
            return None
        return found

    def _start(self, ranks: int, release: str) -> Schedulers:
        return Schedulers(self.context, self.folder, ranks, release, self.of_multiprocessing, self.start_method)


def _barriers(processes: Any, ranks: int) -> list[Barrier]:
    pipes = [processes.Pipe() for _ in range(ranks - 1)]
    return [Barrier([ours for ours, _ in pipes], first=True), *(Barrier([theirs], first=False) for _, theirs in pipes)]


@contextmanager
def _without_main() -> Iterator[None]:
    """A context that hides the running script from multiprocessing. multiprocessing would import this script again in
    each new process. The new process needs nothing of the script, and a script without a main guard, or one from
    standard input, would start again."""
    main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


_abandoned: list[Schedulers] = []
_numbers = itertools.count()
pool = Pool()
