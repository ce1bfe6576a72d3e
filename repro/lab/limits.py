"""A reader's code may loop, block or leave: it runs on a thread that is told to stop when its time is over."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
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
