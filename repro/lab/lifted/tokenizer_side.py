"""The tokenizer's side of an experiment: the lifted `_handle_batch_request`, on a thread and a loop of its own."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import pickle
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import zmq.asyncio

from repro.lab import limits
from repro.lab.evidence.event import NAMING, Event
from repro.lab.evidence.recorder import Recorder
from repro.lab.evidence.turnstile import Turnstile
from repro.lab.lifted.fault import Fault
from repro.lab.lifted.pool import Schedulers
from repro.lab.lifted.request import arrays
from repro.lab.places import SHM
from repro.lab.upstream.expansion import FUNCTION
from repro.lab.upstream.standin_data import GenerateReqInput, TokenizedGenerateReqInput

NOBODY = 0  # no thread has this number
ARRIVES = 0.02  # seconds: a message between two processes has arrived by then
PATIENCE = 5.0  # seconds to wait for the answers to earlier sends, when an experiment has failed


class SchedulerDied(Exception):
    """The scheduler's process ended while a request waited for its answer."""


class RequestFailed(Exception):
    """sglang's scheduler could not read a request, said so, and lives on: a server answers with HTTP 500."""


class ClientGone(Exception):
    """The client has gone away and does not wait for an answer any more."""


@dataclass
class Send:
    """One request on its way. `names` are the names on the wire. `segments` maps the inodes behind these names to their
    sizes in bytes. `intact` says whether the scheduler found the original's bytes (None: no answer came). `seconds` is
    the time for which preparing and sending the request held the event loop.

    `cloned` counts the bytes of features that were copied before they were wrapped. `inline` is the size of the message
    in bytes. `gone` says whether the message left, and `at` when (as `Event.at`). `where` is the line of
    `_handle_batch_request` that sent it. `failed` is the error that the scheduler answered with ("": none). `room` is
    the request's `bootstrap_room`.
    """

    label: str
    names: list[str] = field(default_factory=list)
    segments: dict[int, int] = field(default_factory=dict)
    intact: bool | None = None
    seconds: float = 0.0
    cloned: int = 0
    inline: int = 0
    gone: bool = False
    at: float | None = None
    where: str = ""
    failed: str = ""
    room: int | None = None

    @property
    def waits(self) -> bool:
        """Whether the message has left, and no answer has come."""
        return self.gone and self.intact is None and not self.failed


class Tokenizer:
    """Sends each of `requests` n times. `sends`, `answers` and `error` hold the result."""

    def __init__(
        self, manager: type, requests: Sequence[TokenizedGenerateReqInput], n: int, fault: Fault | None, run: str
    ) -> None:
        """`manager` is the lifted `TokenizerManager`. `run` identifies this experiment's answers: answers to an earlier
        experiment may still arrive."""
        self.manager_class = type("TokenizerManager", (_Watched, manager), {"watcher": self})
        self.requests, self.n, self.fault, self.run = list(requests), n, fault, run
        self.sends: list[Send] = []
        self.number_of: dict[str, int] = {}
        self.answers: list[str] | None = None
        self.error: BaseException | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.ended = threading.Event()  # not `join`: see `limits.within`
        self.over = False  # True when nobody waits for the result any more
        self.seconds = 0.0
        self.prepared = self.bookkeeping = 0.0  # seconds of the fix since the last send; seconds of the lab itself
        self.features = {_address(array) for one in self.requests for array in arrays(one)}

    def execute(
        self, schedulers: Schedulers, recorder: Recorder, *, trace: Callable | None = None, timeout: float = 20.0
    ) -> None:
        """Run until the end, an error, the scheduler's death or the timeout. This needs a thread, because a notebook
        has a loop already. Code that blocks the loop is interrupted after the timeout. Code that cannot be interrupted
        stays behind on its thread."""
        self.schedulers, self.recorder = schedulers, recorder
        thread = threading.Thread(target=self._on_thread, args=(trace, timeout), name="tokenizer", daemon=True)
        thread.start()
        blocked = True
        try:
            with limits.interruptible():
                blocked = not self.ended.wait(timeout + limits.GRACE)
        finally:
            self._leave()
            ended = limits.stop(thread)
            if blocked:
                self.error = TimeoutError("the event loop was blocked")
            if not ended:
                schedulers.abandon()

    def _leave(self) -> None:
        """Cancel the task of the loop, because nothing else would wake a loop that waits. (If the loop has ended
        already, this does nothing.)"""
        self.over = True
        with contextlib.suppress(RuntimeError):
            if self.loop:
                self.loop.call_soon_threadsafe(self.task.cancel)

    def timed(self, prepare: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """A function that calls `prepare` and counts its time as part of the send that follows."""

        def timed(request: Any) -> Any:
            began = time.perf_counter()
            prepared = prepare(request)
            self.prepared += time.perf_counter() - began
            return prepared

        return timed

    def react(self, event: Event) -> None:
        """Kill the scheduler when the current send makes its first name, if that is the fault."""
        if event.what in NAMING and self._is_to("kill", "create", event.send):
            self._kill_the_scheduler()

    @contextlib.contextmanager
    def sending(self, arguments: tuple) -> Iterator[None]:
        """A context around one call of the lifted `_send_one_request`: the call is counted, timed, and recorded as a
        send. The lab's own work in between is not counted."""
        request = _tokenized(arguments)
        number = len(self.sends)
        send = Send(_label(number, len(self.requests), self.n), where=_sending_line())
        clones = [array for array in arrays(request) if _address(array) and _address(array) not in self.features]
        send.cloned = sum(array.nbytes for array in clones)
        self.sends.append(send)
        self.number_of[request.rid] = number
        self.recorder.about(number)
        send.seconds, self.prepared = self.prepared, 0.0
        ours, began = self.recorder.spent + self.bookkeeping, time.perf_counter()
        try:
            yield
        finally:
            send.seconds += time.perf_counter() - began - (self.recorder.spent + self.bookkeeping - ours)
            self.recorder.about(None)

    def send(self, request: Any) -> None:
        """Pickle and send, as ZMQ's `send_pyobj` does, and examine the message. Raises ZMQError if the fault says
        so."""
        number = len(self.sends) - 1
        send = self.sends[number]
        message = pickle.dumps(request, pickle.DEFAULT_PROTOCOL)
        began = time.perf_counter()
        send.inline, send.room = len(message), request.bootstrap_room
        send.names = [f"/{name.lstrip('/')}" for array in arrays(request) if (name := _name_of(array))]
        send.segments = dict(filter(None, map(_segment, send.names)))
        self.bookkeeping += time.perf_counter() - began
        with self.recorder.turn("send", send.names[0] if send.names else ""):
            if self._is_to("fail", "send", number):
                raise zmq.ZMQError(zmq.ENOTSOCK, "this send was told to fail")
            if self._is_to("kill", "send", number):
                self._kill_the_scheduler()
            send.at = time.monotonic()
            self.schedulers.outbox.send(message)
        send.gone = True
        awaited = (0, self.n) if self.n > 1 else (len(self.requests) - 1,)
        if self.turnstile and number in awaited:
            asyncio.get_running_loop().call_soon(self._wait_for_turn_to_get_the_answer)
        if self._is_to("cancel", "answer", number):
            asyncio.get_running_loop().call_soon(self.task.cancel)

    @property
    def turnstile(self) -> Turnstile | None:
        """The tokenizer's place at the turnstile, if there is one."""
        return self.recorder.turnstile

    def _wait_for_turn_to_get_the_answer(self) -> None:
        """The holder of the turnstile lets the tokenizer go on, or says that the client goes away."""
        with contextlib.suppress(ClientGone), self.turnstile.turn("await"):
            pass

    def client_goes_away(self) -> None:
        """Called when the holder of the turnstile says that the client goes away. Raises ClientGone, because there is
        no turn to wait for any more."""
        self.task.cancel()
        raise ClientGone

    def _kill_the_scheduler(self) -> None:
        """Kill rank 0 by SIGKILL. If the acts follow a recorded order, first wait until the other processes have done
        all acts that come before this process's next act. Then wait until messages of rank 0 have arrived."""
        if self.recorder.order:
            self.recorder.order.wait_for_others()
            time.sleep(ARRIVES)
        self.schedulers.processes[0].kill()

    def _is_to(self, what: str, at: str, send: int | None) -> bool:
        fault = self.fault
        return fault is not None and (fault.what, fault.at, fault.send) == (what, at, send)

    def _on_thread(self, trace: Callable | None, timeout: float) -> None:
        began = time.perf_counter()
        self.recorder.thread = threading.get_ident()
        sys.settrace(trace)
        try:
            asyncio.run(asyncio.wait_for(self._main(), timeout))
        except BaseException as error:
            self.error = error
        finally:
            sys.settrace(None)
            if self.turnstile:
                self.turnstile.ask("end")
            self.recorder.thread = NOBODY  # the next thread may have the same number
            self.seconds = time.perf_counter() - began
            self.ended.set()

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
        self.loop = asyncio.get_running_loop()
        self.loop.set_exception_handler(_keep_quiet)
        try:
            async for answers in manager._handle_batch_request(*arguments):
                self.answers = answers
        except BaseException:
            await self._until_all_arrived()  # earlier sends are still answered, and their answers belong to this run
            raise
        finally:
            receiver.cancel()
            for process in self.schedulers.processes:
                asyncio.get_running_loop().remove_reader(process.sentinel)

    async def _until_all_arrived(self) -> None:
        until = time.monotonic() + PATIENCE
        while any(send.waits for send in self.sends) and not self.schedulers.dead:
            if self.over or time.monotonic() > until:
                break
            await asyncio.sleep(0.001)

    async def _receive(self, inbox: zmq.asyncio.Socket, manager: Any) -> None:
        while True:
            answer = await inbox.recv_pyobj()
            if answer["run"] != self.run:  # the answer belongs to an earlier run that did not wait for it
                continue
            send = self.sends[self.number_of[answer["rid"]]]
            if answer["error"]:
                send.failed = answer["error"]
            else:
                send.intact = answer["intact"]
            state = manager.rid_to_state.get(answer["rid"])  # no state: nobody waits for the rest of a failed request
            if state and send.failed:
                _fail(state.answer, RequestFailed(send.failed))
            elif state and not state.answer.done():
                state.answer.set_result(send.label)

    def _watch_for_death(self, manager: Any) -> None:
        loop = asyncio.get_running_loop()

        def died(process: Any) -> None:
            loop.remove_reader(process.sentinel)
            self.schedulers.dead = True
            for state in manager.rid_to_state.values():
                _fail(state.answer, SchedulerDied())

        for process in [] if self.turnstile else self.schedulers.processes:  # the holder of a turnstile tells of deaths
            loop.add_reader(process.sentinel, died, process)


def _fail(answer: asyncio.Future, error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)
        answer.exception()  # otherwise asyncio would complain about an error that nobody awaits any more


def _keep_quiet(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Ignore the loop's complaints about errors that nobody awaits: `Tokenizer.error` holds the error that matters. A
    complaint would be formatted during garbage collection, which can come at any moment. Inside `ast.parse`, it breaks
    CPython 3.11."""


class _Outbox:
    """Stands for the tokenizer's socket to the scheduler: what the lifted code sends goes through `Tokenizer.send`."""

    def __init__(self, watcher: Tokenizer) -> None:
        self.send_pyobj = watcher.send


class _Watched:
    """Observes the arguments and the messages of the lifted `_send_one_request`. It changes nothing."""

    watcher: Tokenizer

    def _send_one_request(self, *arguments: Any) -> Any:
        if inspect.iscoroutinefunction(inspect.unwrap(super()._send_one_request)):  # from 0.5.20 on, hooked or not
            return self._send_one_request_later(arguments)
        with self.watcher.sending(arguments):
            return super()._send_one_request(*arguments)

    async def _send_one_request_later(self, arguments: tuple) -> Any:
        with self.watcher.sending(arguments):
            return await super()._send_one_request(*arguments)


def _sending_line() -> str:
    """The line of the lifted `_handle_batch_request` that is sending now, as `file:line function`."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == FUNCTION:
            return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno} {FUNCTION}"
        frame = frame.f_back
    return ""


def _segment(name: str) -> tuple[int, int] | None:
    """Inode and size of the segment that a name leads to; None if the name is gone."""
    try:
        status = os.stat(SHM / name.lstrip("/"))
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_size


def _address(array: Any) -> int:
    """The address of the bytes of a tensor or a numpy array; 0 for an object without bytes here, such as a pointer."""
    if hasattr(array, "data_ptr"):
        return array.data_ptr()
    return array.ctypes.data if hasattr(array, "ctypes") else 0


def _name_of(array: Any) -> str | None:
    """The name that a pointer holds (in 0.5.9, that its segment has); None for anything else."""
    return getattr(array, "shm_name", None) or getattr(getattr(array, "shm", None), "name", None)


def _tokenized(arguments: tuple) -> TokenizedGenerateReqInput:
    return next(argument for argument in arguments if isinstance(argument, TokenizedGenerateReqInput))


def _label(number: int, batch: int, n: int) -> str:
    """The label of the send with this number: `request`, `warm-up` or `sample K`. If the batch has several prompts, a
    letter for the prompt follows."""
    if n == 1:
        prompt, name = number, "request"
    elif number < batch:
        prompt, name = number, "warm-up"
    else:
        prompt, sample = divmod(number - batch, n)
        name = f"sample {sample + 1}"
    return f"{name} {chr(ord('a') + prompt % 26)}" if batch > 1 else name
