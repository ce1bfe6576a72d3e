"""Compares the model with the real code: forces an order of the model on sglang's functions, between real processes.

Every process of the run waits at a turnstile before each act, and this process, the holder, holds the turnstile. The
holder lets one process do one act at a time, in the model's order. It also kills, by SIGKILL, each process that is
killed in the order. Three things have to be as in the model: the act that a process asks to do, how the act ends, and
at the end the names in /dev/shm.

The holder forks: the tokenizer is a fork of the holder, and the ranks are forks of the tokenizer. So torch is imported
only once. Because of the forks, a process that holds the turnstile should do nothing else.
"""

from __future__ import annotations

import errno
import json
import os
import select
import selectors
import signal
import socket
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fixed.designs import Design
from fixed.orders.machine import DEAD, IDLE, NO_NAME, OVER, PHASES, TIDYING, TOKENIZER, TRACKER, Act, Machine, State
from repro.lab.evidence.turnstile import GO
from repro.lab.lifted import Experiment, Fault, make_request
from repro.lab.lifted import pool as pools
from repro.lab.places import SHM
from repro.lab.upstream.standin_data import TokenizedGenerateReqInput

LIMIT = 20.0  # seconds that a process has to reach its next act
ARRIVES = 0.003  # seconds to wait for a message to arrive, before a process is killed
# act of the model -> what the process asks to do, where the two differ
ASKS = {"gets the answer": "await", "open fails": "open", "send fails": "send", "reads other pixels": "read"}
ORDERS = {"client goes away": "gone", "learns of the death": "learn"}  # act -> the word that is sent instead of GO


class Differs(Exception):
    """The real run differs from the model. The message says in what."""


@dataclass
class Place:
    """One process at the turnstile. `line` is the connection to it, and `tracker` the pid of its resource tracker.
    `asks` is the act that the process asks to do, and `done` are its acts that have ended."""

    line: socket.socket
    pid: int = 0
    tracker: int = 0
    text: bytes = b""
    asks: dict[str, Any] | None = None
    done: list[dict[str, Any]] = field(default_factory=list)
    gone: bool = False


def forced(
    machine: Machine, order: Sequence[Act], design: Design, release: str, *, kind: type[Holder] | None = None
) -> None:
    """Run the order for real. `kind` is the class of the holder (default: Holder). Raises Differs if the run differs
    from the model. In any case, no process and no name is left."""
    with tempfile.TemporaryDirectory(prefix="shm-kit-", ignore_cleanup_errors=True) as folder:
        holder = (kind or Holder)(machine, order, folder)
        try:
            holder.start(design, release)
            holder.walk()
        finally:
            holder.close()


class Holder:
    """Holds the turnstile of one run. `folder` is for the sockets of the run."""

    def __init__(self, machine: Machine, order: Sequence[Act], folder: str) -> None:
        self.machine, self.order, self.folder = machine, list(order), folder
        self.places: dict[str, Place] = {}
        self.numbers: dict[str, int] = {}  # real name -> the model's
        self.child = 0
        self.last_words: list[str] = []  # the last line that the run's processes have printed, if there is one
        self.kills = any("killed" in act.what for act in self.order)
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(f"{folder}/turnstile")
        self.server.listen()
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.server, selectors.EVENT_READ)

    def start(self, design: Design, release: str) -> None:
        """Fork the tokenizer, and wait until it and its ranks are at the turnstile. Raises Differs if they do not
        come."""
        fails = next((act.send for act in self.order if act.what == "send fails"), None)
        fault = None if fails is None else Fault("fail", send=fails)
        self.pipe, theirs = os.pipe()  # `theirs` is closed when all processes of the run, and the tracker, are gone
        self.child = os.fork()
        if not self.child:
            os.dup2(theirs, 2)
            for descriptor in (self.pipe, theirs, self.server.fileno(), self.selector.fileno()):
                os.close(descriptor)
            self.be_the_tokenizer(design, release, fault)
        os.close(theirs)
        self._until(lambda: len(self.places) == 1 + self.machine.ranks, "the processes to come")
        self._asking(TOKENIZER)  # so the ranks are ready

    def be_the_tokenizer(self, design: Design, release: str, fault: Fault | None) -> None:
        """In the forked process: run the experiment, and exit."""
        tempfile.tempdir = self.folder
        pools.pool.start_method = "fork"
        try:
            Experiment(
                self.requests(),
                n=self.machine.n,
                release=release,
                fix=design,
                ranks=self.machine.ranks,
                barrier=self.machine.protocol.barrier,
                fault=fault,
                sweep=False,
                turnstile=f"{self.folder}/turnstile",
                timeout=10 * LIMIT,
            ).run()
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(0)

    def requests(self) -> list[TokenizedGenerateReqInput]:
        """The requests that the run sends."""
        return [make_request(shape=(2, 4))]

    def walk(self) -> None:
        """Let the acts happen in the model's order. Raises Differs if an act, or a name at the end, differs."""
        state = self.machine.initial
        for act in self.order:
            try:
                self._let(act, state)
            except Differs as differs:
                raise Differs(f"{act.who} {act.what}: {differs}") from None
            state = dict(self.machine.successors(state))[act]
        self._end(state)
        there = {self.numbers[name] for name in self.numbers if os.path.exists(f"{SHM}{name}")}
        names = {name for name in range(state[1].bit_length()) if state[1] >> name & 1}
        if there != names:
            raise Differs(f"at the end there are the names {sorted(there)}, in the model {sorted(names)}")

    def close(self) -> None:
        """Kill the processes that are left, and remove the names."""
        for place in self.places.values():
            _kill(place.pid, place.tracker)
        _kill(self.child)
        try:
            self._until_all_are_gone()
        finally:
            os.close(self.pipe)
            self.selector.close()
            self.server.close()
            for place in self.places.values():
                place.line.close()
            for name in self.numbers:
                Path(f"{SHM}{name}").unlink(missing_ok=True)

    def _let(self, act: Act, state: State) -> None:
        """Make one act happen: let the process go on, or kill a process. The tracker acts by itself."""
        alive = [place for place in self.places.values() if not place.gone]
        if act.what == "all are killed at once":
            for sign in (signal.SIGSTOP, signal.SIGKILL):
                for place in alive:
                    _signal(sign, place.pid, place.tracker)
            self._until_all_are_gone()
        elif act.what == "are killed, too":
            self._kill([place for role, place in self.places.items() if role != TOKENIZER and not place.gone])
            self._until_all_are_gone()  # the tracker, too: it ends when all of its processes have ended
        elif act.what == "is killed":
            self._kill([self.places[act.who]])
        elif act.who != TRACKER:
            self._say(act, state)

    def _say(self, act: Act, state: State) -> None:
        place = self._asking(act.who)
        if act.who == TOKENIZER and self._tidies(state):
            self._let_it_find_nothing(place, state[1])
        asked, place.asks = place.asks, None
        if act.what in ORDERS:
            place.line.sendall(f"{ORDERS[act.what]}\n".encode())
            return
        expected = self._asked_for(act)
        if asked["what"] != expected:
            raise Differs(f"it asks to {asked['what']} {asked['name']}")
        if asked["name"] and self.numbers.setdefault(asked["name"], len(self.numbers)) != act.name:
            raise Differs(f"it asks to {expected} name {self.numbers[asked['name']]}, in the model {act.name}")
        place.line.sendall(f"{GO}\n".encode())
        if act.what == "kills the tree":
            self._until_all_are_gone()
            return
        self._until(lambda: place.done or place.gone, f"{act.who} to {act.what}")
        ended = place.done.pop(0) if place.done else {"errno": None}
        if (ended["errno"] is not None) != (act.what == "open fails") and act.what != "unlink":
            raise Differs(f"it ended with errno {ended['errno']}")
        self._let_arrive(act, state)

    def _let_it_find_nothing(self, place: Place, names: int) -> None:
        """Before sglang kills its process tree, the tokenizer lists its names and unlinks them. Meanwhile, a rank may
        have unlinked one of them. Then the tokenizer's unlink has to fail, and the model has no act for it."""
        while place.asks["what"] == "unlink" and not names >> self.numbers[place.asks["name"]] & 1:
            place.asks = None
            place.line.sendall(f"{GO}\n".encode())
            self._until(lambda: place.done, "the tokenizer to find nothing")
            if place.done.pop(0)["errno"] != errno.ENOENT:
                raise Differs("it unlinks a name that is not there in the model")
            self._asking(TOKENIZER)

    def _asked_for(self, act: Act) -> str:
        """The act that the process has to ask for, so that this act of the model happens."""
        return ASKS.get(act.what, act.what)

    def _tidies(self, state: State) -> bool:
        return DEAD < state[0] <= TIDYING

    def _goes_on(self, state: State) -> bool:
        """Whether both the tokenizer and the server are alive."""
        return state[0] >= 0 and state[3] < NO_NAME

    def _waits(self, state: State, rank: int) -> bool:
        """Whether a rank waits for a message."""
        return state[5 + rank] != OVER and state[5 + rank] % PHASES == IDLE

    def _let_arrive(self, act: Act, state: State) -> None:
        """Wait until the act's message has arrived. In the model, a message arrives at once."""
        if act.what in ("send", "forward"):
            for rank in [0] if act.what == "send" else range(1, self.machine.ranks):
                if self._waits(state, rank):
                    place = self.places[f"rank {rank}"]
                    self._until(lambda place=place: place.asks or place.gone, f"the message to come to rank {rank}")
        if self.kills and act.what in ("send", "forward", "answer"):
            time.sleep(ARRIVES)

    def _end(self, state: State) -> None:
        """Check that after the last act no process asks for another act."""
        tokenizer = self.places[TOKENIZER]
        if self._goes_on(state):
            asked = self._asking(TOKENIZER).asks
            if asked["what"] != "end":
                raise Differs(f"after the last act the tokenizer asks to {asked['what']} {asked['name']}")
            tokenizer.line.sendall(f"{GO}\n".encode())
            self._until(lambda: tokenizer.gone, "the tokenizer to end")
        late = [role for role, place in self.places.items() if place.asks and not place.gone and role != TOKENIZER]
        if late and state[3] < NO_NAME:
            raise Differs(f"after the last act, {late[0]} asks to {self.places[late[0]].asks['what']}")

    def _asking(self, who: str) -> Place:
        place = self.places[who]
        self._until(lambda: place.asks or place.gone, f"{who} to ask")
        if not place.asks:
            raise self._differs("the process is gone")
        return place

    def _kill(self, places: Sequence[Place]) -> None:
        for place in places:
            _kill(place.pid)
        self._until(lambda: all(place.gone for place in places), "a killed process to go")

    def _until_all_are_gone(self) -> None:
        """Wait until the pipe that all processes of the run hold is closed."""
        until = time.monotonic() + LIMIT
        while self._read_last_words(until - time.monotonic()):
            if time.monotonic() > until:
                raise Differs("the processes do not end")
        for place in self.places.values():
            place.gone = True
        while True:
            try:
                os.waitpid(-1, 0)
            except ChildProcessError:
                return

    def _read_last_words(self, seconds: float) -> bool:
        """Read what the processes print to stderr, and wait so long for it. Returns False if all of them are gone."""
        if not select.select([self.pipe], [], [], max(0.0, seconds))[0]:
            return True
        text = os.read(self.pipe, 65536)
        self.last_words = text.decode(errors="replace").splitlines()[-1:] or self.last_words
        return bool(text)

    def _differs(self, what: str) -> Differs:
        """The error that says what is wrong, and the last line that the processes have printed."""
        self._read_last_words(0)
        return Differs(": ".join([what, *self.last_words]))

    def _until(self, condition: Any, what: str) -> None:
        until = time.monotonic() + LIMIT
        while not condition():
            if time.monotonic() > until:
                raise self._differs(f"waited {LIMIT:g} s for {what}")
            self._hear()

    def _hear(self) -> None:
        """Take the next messages of the processes: a new connection, a process's role, the act that it asks to do, or
        the end of an act."""
        for key, _ in self.selector.select(LIMIT / 10):
            if key.fileobj is self.server:
                line, _ = self.server.accept()
                self.selector.register(line, selectors.EVENT_READ, Place(line))
                continue
            place: Place = key.data
            try:
                text = place.line.recv(65536)
            except ConnectionResetError:
                text = b""
            if not text:
                place.gone = True
                self.selector.unregister(place.line)
            *lines, place.text = (place.text + text).split(b"\n")
            for told in map(json.loads, lines):
                if "role" in told:
                    place.pid, place.tracker = told["pid"], told.get("tracker", 0)
                    self.places[told["role"]] = place
                elif "done" in told:
                    place.done.append(told)
                else:
                    place.asks = told


def _kill(*pids: int) -> None:
    _signal(signal.SIGKILL, *pids)


def _signal(number: int, *pids: int) -> None:
    for pid in filter(None, pids):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass
