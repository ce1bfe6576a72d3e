"""Limits for a reader's code, and for Ctrl-C.

A reader's code may loop, block or exit. So it runs on a thread of its own, and the thread is told to stop when its time
is over. Ctrl-C may come at any moment. It is delayed while it would leave work half done.
"""

from __future__ import annotations

import contextlib
import ctypes
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

GRACE = 2.0  # seconds for a thread to end after it was told to stop


class Interrupted(BaseException):
    """Raised in the reader's code, on its thread, when its time is over."""


def within(seconds: float, call: Callable[[], Any]) -> Any:
    """Call `call()` on a thread of its own and return its result. Raises what `call` raises, SystemExit included, and
    TimeoutError if `call` takes longer. Code that blocks in C cannot be stopped: it stays behind on its thread."""
    came_to: dict[str, Any] = {}
    ended = threading.Event()  # a `join` that Ctrl-C interrupts takes a living thread for a dead one, up to Python 3.12

    def work() -> None:
        try:
            came_to["result"] = call()
        except BaseException as error:
            came_to["error"] = error
        finally:
            ended.set()

    thread = threading.Thread(target=work, name="reader", daemon=True)
    thread.start()
    try:
        in_time = ended.wait(seconds)
    finally:
        with uninterrupted():
            stop(thread)
    if not in_time:
        raise TimeoutError(f"no end within {seconds:g} s")
    if "error" in came_to:
        raise came_to["error"]
    return came_to["result"]


def stop(thread: threading.Thread) -> bool:
    """Tell the thread to stop if it still runs. Returns whether the thread has ended."""
    until = time.monotonic() + GRACE
    thread.join(0.1)
    while thread.is_alive() and time.monotonic() < until:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(Interrupted))
        thread.join(0.1)
    return not thread.is_alive()


class _CtrlC:
    """How Ctrl-C is handled in `uninterrupted`. `came` says whether a Ctrl-C is waiting. If `at_once` is True, a Ctrl-C
    calls at once `before`, the handler that was in place before."""

    def __init__(self) -> None:
        self.came = self.at_once = False
        self.before: Callable = signal.default_int_handler

    def comes(self, *arguments: Any) -> None:
        if self.at_once:
            self.before(*arguments)
        else:
            self.came = True


_waiting: _CtrlC | None = None


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """A context that delays Ctrl-C until the context ends, or until an `interruptible` inside it. Only the main thread
    gets Ctrl-C."""
    global _waiting
    before = signal.getsignal(signal.SIGINT)
    if _waiting or not callable(before) or threading.current_thread() is not threading.main_thread():
        yield
        return
    _waiting = here = _CtrlC()
    here.before = signal.signal(signal.SIGINT, here.comes)
    try:
        yield
    finally:
        _waiting = None
        signal.signal(signal.SIGINT, before)
        if here.came:
            signal.raise_signal(signal.SIGINT)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """A context inside `uninterrupted`, around a wait: here Ctrl-C acts at once."""
    here = _waiting
    if here is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    here.at_once = True
    try:
        if here.came:
            here.came = False
            signal.raise_signal(signal.SIGINT)
        yield
    finally:
        here.at_once = False
