"""A reader's code may loop, block or leave: it runs on a thread that is told to stop when its time is over. And Ctrl-C
may come at any moment: it waits where something would be left half done."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

GRACE = 2.0  # seconds for a thread to end that is told to


class Interrupted(BaseException):
    """The time of the reader's code, which still runs, is over."""


def within(seconds: float, call: Callable[[], Any]) -> Any:
    """What `call()` returns, on a thread of its own. Raises what it raises, SystemExit included; TimeoutError if it
    takes longer. Code that cannot be stopped, because it blocks in C, is left behind on its thread."""
    came_to: dict[str, Any] = {}

    def work() -> None:
        try:
            came_to["result"] = call()
        except BaseException as error:
            came_to["error"] = error

    thread = threading.Thread(target=work, name="reader", daemon=True)
    thread.start()
    try:
        thread.join(seconds)
        in_time = not thread.is_alive()
    finally:
        stop(thread)
    if not in_time:
        raise TimeoutError(f"no end within {seconds:g} s")
    if "error" in came_to:
        raise came_to["error"]
    return came_to["result"]


def stop(thread: threading.Thread) -> bool:
    """Whether the thread has ended, after it was told to if it has not."""
    until = time.monotonic() + GRACE
    thread.join(0.1)
    while thread.is_alive() and time.monotonic() < until:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(Interrupted))
        thread.join(0.1)
    return not thread.is_alive()


class _CtrlC:
    """What waits of Ctrl-C while it has to wait, and what would have been done at once."""

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
    """Ctrl-C, which comes to the main thread alone, comes when this ends, or in an `interruptible` within it."""
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
    """Within `uninterrupted`, around a wait: Ctrl-C comes at once here."""
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
