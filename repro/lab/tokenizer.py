"""The tokenizer's side of one experiment: the lifted `_handle_batch_request` on a thread and a loop of its own."""

from __future__ import annotations

import asyncio
import inspect
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import zmq.asyncio

from repro.lab import recorder
from repro.lab.bench import Schedulers
from repro.lab.request import GenerateReqInput, TokenizedGenerateReqInput, arrays


class SchedulerDied(Exception):
    """The scheduler's process ended while a request waited for its answer."""


@dataclass
class Send:
    """One request on its way: `names` are the shared-memory names on the wire, `intact` whether the scheduler found
    the original's bytes (None: no answer came), `seconds` how long `_send_one_request` held the loop."""

    label: str
    names: list[str] = field(default_factory=list)
    intact: bool | None = None
    seconds: float = 0.0


class Tokenizer:
    """Sends each of `requests` n times. `sends`, `answers` and `error` hold what came of it."""

    def __init__(self, lifted: type, requests: Sequence[TokenizedGenerateReqInput], n: int) -> None:
        self.manager_class = type("TokenizerManager", (_Watched, lifted), {"watcher": self})
        self.requests, self.n = list(requests), n
        self.sends: list[Send] = []
        self.number_of: dict[str, int] = {}
        self.answers: list[str] | None = None
        self.error: BaseException | None = None
        self.seconds = 0.0

    def execute(
        self,
        schedulers: Schedulers,
        *,
        fail_send: int | None = None,
        trace: Callable | None = None,
        timeout: float = 20.0,
    ) -> None:
        """Run to the end, an error, the scheduler's death or the timeout. On a thread: a notebook has a loop."""
        self.schedulers, self.fail_send = schedulers, fail_send
        thread = threading.Thread(target=self._on_thread, args=(trace, timeout), name="tokenizer")
        thread.start()
        thread.join()

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
        manager = self.manager_class(self.requests, self.schedulers.outbox)
        asked = GenerateReqInput([one.rid for one in self.requests], self.n, len(self.requests))
        arguments = [asked, None]
        if "request_states" in inspect.signature(manager._handle_batch_request).parameters:  # from 0.5.22 on
            arguments.append(dict(manager.rid_to_state))
        inbox = zmq.asyncio.Socket(shadow=self.schedulers.inbox.underlying)
        receiver = asyncio.ensure_future(self._receive(inbox, manager))
        self._watch_for_death(manager)
        try:
            async for answers in manager._handle_batch_request(*arguments):
                self.answers = answers
        finally:
            receiver.cancel()
            for process in self.schedulers.processes:
                asyncio.get_running_loop().remove_reader(process.sentinel)

    async def _receive(self, inbox: zmq.asyncio.Socket, manager: Any) -> None:
        while True:
            answer = await inbox.recv_pyobj()
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


class _Watched:
    """Looks at what goes in and out of the lifted `_send_one_request`; changes nothing."""

    watcher: Tokenizer

    def _send_one_request(self, *arguments: Any):
        send = self._begin(arguments)
        sent = super()._send_one_request(*arguments)
        if inspect.isawaitable(sent):  # from 0.5.20 on
            return self._finish(sent, send, arguments)
        self._end(send, arguments)
        return sent

    async def _finish(self, sent: Any, send: Send, arguments: tuple) -> Any:
        result = await sent
        self._end(send, arguments)
        return result

    def _begin(self, arguments: tuple) -> Send:
        watcher, number = self.watcher, len(self.watcher.sends)
        send = Send(_label(number, len(watcher.requests), watcher.n))
        watcher.sends.append(send)
        watcher.number_of[_tokenized(arguments).rid] = number
        recorder.about(number)
        self.send_to_scheduler.fails = number == watcher.fail_send
        send.seconds = -time.perf_counter()
        return send

    def _end(self, send: Send, arguments: tuple) -> None:
        send.seconds += time.perf_counter()
        names = (_name_of(array) for array in arrays(_tokenized(arguments)))
        send.names = [f"/{name.lstrip('/')}" for name in names if name]
        recorder.about(None)


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
