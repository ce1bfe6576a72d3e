"""The tokenizer's side of one experiment: the lifted `_handle_batch_request` on a thread and a loop of its own."""

from __future__ import annotations

import asyncio
import inspect
import os
import pickle
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import zmq.asyncio

from repro.lab.evidence import recorder
from repro.lab.evidence.inotify import SHM
from repro.lab.lifted.pool import Schedulers
from repro.lab.lifted.request import GenerateReqInput, TokenizedGenerateReqInput, arrays

PATIENCE = 5.0  # seconds for the answers to what was sent, when a run has failed


class SchedulerDied(Exception):
    """The scheduler's process ended while a request waited for its answer."""


@dataclass
class Send:
    """One request on its way: `names` are the shared-memory names on the wire, `segments` the inodes behind them,
    with their sizes in bytes, `intact` whether the scheduler found the original's bytes (None: no answer came),
    `seconds` how long preparing and sending it held the event loop.

    `cloned` and `inline` are bytes: of features that were copied before they were wrapped, and of the message itself;
    `gone` is whether it left.
    """

    label: str
    names: list[str] = field(default_factory=list)
    segments: dict[int, int] = field(default_factory=dict)
    intact: bool | None = None
    seconds: float = 0.0
    cloned: int = 0
    inline: int = 0
    gone: bool = False


@dataclass(frozen=True)
class Faults:
    """What is to go wrong, at which send: the scheduler is killed when the send's first name is made (`create`), or
    before the message leaves (`send`); the send fails after it was wrapped (`fail`); the client goes away while the
    send waits for its answer (`cancel`)."""

    create: int | None = None
    send: int | None = None
    fail: int | None = None
    cancel: int | None = None


class Tokenizer:
    """Sends each of `requests` n times. `sends`, `answers` and `error` hold what came of it."""

    def __init__(self, lifted: type, requests: Sequence[TokenizedGenerateReqInput], n: int, faults: Faults) -> None:
        self.manager_class = type("TokenizerManager", (_Watched, lifted), {"watcher": self})
        self.requests, self.n, self.faults = list(requests), n, faults
        self.sends: list[Send] = []
        self.number_of: dict[str, int] = {}
        self.answers: list[str] | None = None
        self.error: BaseException | None = None
        self.seconds = self.prepared = 0.0
        self.features = {_address(array) for one in self.requests for array in arrays(one)}

    def execute(
        self, schedulers: Schedulers, run: str, *, trace: Callable | None = None, timeout: float = 20.0
    ) -> None:
        """Run to the end, an error, the scheduler's death or the timeout. On a thread: a notebook has a loop. `run`
        tells this run's answers from those of others."""
        self.schedulers, self.run = schedulers, run
        thread = threading.Thread(target=self._on_thread, args=(trace, timeout), name="tokenizer")
        thread.start()
        thread.join()

    def timed(self, prepare: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """`prepare`, with its time counted as the time of the send that follows."""

        def timed(request: Any) -> Any:
            began = time.perf_counter()
            prepared = prepare(request)
            self.prepared += time.perf_counter() - began
            return prepared

        return timed

    def react(self, event: recorder.Event) -> None:
        """Kill the scheduler when the send at hand makes its first name, if that is the fault."""
        if event.what in recorder.NAMING and event.send == self.faults.create is not None:
            self.schedulers.processes[0].kill()

    def _on_thread(self, trace: Callable | None, timeout: float) -> None:
        began = time.perf_counter()
        sys.settrace(trace)
        try:
            asyncio.run(asyncio.wait_for(self._main(), timeout))
        except BaseException as error:
            self.error = error
        finally:
            sys.settrace(None)
            self.seconds = time.perf_counter() - began

    async def _main(self) -> None:
        manager = self.manager_class(self.requests, _Outbox(self))
        asked = GenerateReqInput([one.rid for one in self.requests], self.n, len(self.requests))
        arguments = [asked, None]
        if "request_states" in inspect.signature(manager._handle_batch_request).parameters:  # from 0.5.22 on
            arguments.append(dict(manager.rid_to_state))
        inbox = zmq.asyncio.Socket(shadow=self.schedulers.inbox.underlying)
        receiver = asyncio.ensure_future(self._receive(inbox, manager))
        self._watch_for_death(manager)
        self.task = asyncio.current_task()
        try:
            async for answers in manager._handle_batch_request(*arguments):
                self.answers = answers
        except BaseException:
            await self._until_all_arrived()  # what was sent is answered all the same, and should be in this run
            raise
        finally:
            receiver.cancel()
            for process in self.schedulers.processes:
                asyncio.get_running_loop().remove_reader(process.sentinel)

    async def _until_all_arrived(self) -> None:
        until = time.monotonic() + PATIENCE
        while any(send.intact is None for send in self.sends if send.gone) and not self.schedulers.dead:
            if time.monotonic() > until:
                break
            await asyncio.sleep(0.001)

    async def _receive(self, inbox: zmq.asyncio.Socket, manager: Any) -> None:
        while True:
            answer = await inbox.recv_pyobj()
            if answer["run"] != self.run:  # of one that did not wait for it
                continue
            send = self.sends[self.number_of[answer["rid"]]]
            send.intact = answer["intact"]
            waiting = manager.rid_to_state[answer["rid"]].answer
            if not waiting.done():
                waiting.set_result(send.label)

    def _watch_for_death(self, manager: Any) -> None:
        loop = asyncio.get_running_loop()

        def died(process: Any) -> None:
            loop.remove_reader(process.sentinel)
            self.schedulers.dead = True
            for state in manager.rid_to_state.values():
                if not state.answer.done():
                    state.answer.set_exception(SchedulerDied())
                    state.answer.exception()  # asyncio would complain about those that nobody awaits any more

        for process in self.schedulers.processes:
            loop.add_reader(process.sentinel, died, process)


class _Outbox:
    """The tokenizer's end of the socket to the scheduler. Looks at what leaves, and fails or kills as it was told."""

    def __init__(self, watcher: Tokenizer) -> None:
        self.watcher, self.socket = watcher, watcher.schedulers.outbox

    def send_pyobj(self, request: Any) -> None:
        """Pickle and send. Raises ZMQError if it is to fail."""
        watcher, number = self.watcher, len(self.watcher.sends) - 1
        send, faults = watcher.sends[number], watcher.faults
        message = pickle.dumps(request, pickle.DEFAULT_PROTOCOL)  # as ZMQ's own send_pyobj does
        began = time.perf_counter()
        send.inline = len(message)
        send.names = [f"/{name.lstrip('/')}" for array in arrays(request) if (name := _name_of(array))]
        send.segments = dict(filter(None, map(_segment, send.names)))
        send.seconds -= time.perf_counter() - began
        if number == faults.fail:
            raise zmq.ZMQError(zmq.ENOTSOCK, "this send was told to fail")
        if number == faults.send:
            watcher.schedulers.processes[0].kill()
        self.socket.send(message)
        send.gone = True
        if number == faults.cancel:
            asyncio.get_running_loop().call_soon(watcher.task.cancel)


class _Watched:
    """Looks at what goes in and out of the lifted `_send_one_request`; changes nothing."""

    watcher: Tokenizer

    def _send_one_request(self, *arguments: Any):
        send = self._begin(arguments)
        sent = super()._send_one_request(*arguments)
        if inspect.isawaitable(sent):  # from 0.5.20 on
            return self._finish(sent, send)
        self._end(send)
        return sent

    async def _finish(self, sent: Any, send: Send) -> Any:
        result = await sent
        self._end(send)
        return result

    def _begin(self, arguments: tuple) -> Send:
        watcher, number = self.watcher, len(self.watcher.sends)
        request = _tokenized(arguments)
        send = Send(_label(number, len(watcher.requests), watcher.n))
        clones = [array for array in arrays(request) if _address(array) and _address(array) not in watcher.features]
        send.cloned = sum(array.nbytes for array in clones)
        watcher.sends.append(send)
        watcher.number_of[request.rid] = number
        recorder.about(number)
        watcher.prepared, spent = 0.0, watcher.prepared
        send.seconds = spent + recorder.spent() - time.perf_counter()
        return send

    def _end(self, send: Send) -> None:
        send.seconds += time.perf_counter() - recorder.spent()  # what the lab did itself does not count
        recorder.about(None)


def _segment(name: str) -> tuple[int, int] | None:
    """Inode and size of the segment that a name leads to; None if the name is gone."""
    try:
        status = os.stat(SHM / name.lstrip("/"))
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_size


def _address(array: Any) -> int:
    """Where the bytes of a tensor or a numpy array are; 0 for what has none here, such as a pointer."""
    if hasattr(array, "data_ptr"):
        return array.data_ptr()
    return array.ctypes.data if hasattr(array, "ctypes") else 0


def _name_of(array: Any) -> str | None:
    """The name that a pointer holds (in 0.5.9, that its segment has); None for anything else."""
    return getattr(array, "shm_name", None) or getattr(getattr(array, "shm", None), "name", None)


def _tokenized(arguments: tuple) -> TokenizedGenerateReqInput:
    return next(argument for argument in arguments if isinstance(argument, TokenizedGenerateReqInput))


def _label(number: int, batch: int, n: int) -> str:
    """What the send of this number is; prompts of a batch are told apart by letters."""
    if n == 1:
        prompt, name = number, "request"
    elif number < batch:
        prompt, name = number, "warm-up"
    else:
        prompt, sample = divmod(number - batch, n)
        name = f"sample {sample + 1}"
    return f"{name} {chr(ord('a') + prompt % 26)}" if batch > 1 else name
