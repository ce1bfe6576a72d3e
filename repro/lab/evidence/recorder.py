"""Who created, opened, mapped, closed and unlinked which shared-memory name, when, in which process.

Every process of a run appends one JSON line an event to the run's own file. The names are taken where CPython calls
the operating system (`_posixshmem.shm_open`, `shm_unlink`, `os.link`, and for files in /dev/shm that are made or
removed by path `open` and `os.remove`), so nothing of sglang is touched and no name that the run created is missed.
Times are the system's monotonic clock, which all processes share; within a process the lines stand in the order in
which things happened.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import shared_memory, synchronize
from pathlib import Path
from typing import Any

SHM = "/dev/shm"
EVENTS_FILE = "SGLANG_SHM_KIT_EVENTS"  # environment variable: the file that a guarded run's processes append to
LEDGER = "SGLANG_SHM_KIT_LEDGER"  # environment variable: a file that gets every name made, for more than one run
NAMING = ("create", "link")  # what makes a name


@dataclass(frozen=True)
class Event:
    """One thing that happened to one name. `what` is `create`, `create failed`, `link`, `link failed`, `open`,
    `open failed`, `map`, `close`, `unlink`, `unlink failed` or `semaphore`; `send` counts a run's sends from 0; `where`
    is the caller outside the standard library, as `file:line function`."""

    at: float
    pid: int
    role: str
    what: str
    name: str
    send: int | None = None
    bytes: int | None = None
    errno: int | None = None
    where: str | None = None


@dataclass
class _Account:
    """Where this process writes its events: file, own role (else its title tells), and the send at hand; who is called
    with each event; the seconds that all of this took; and, unless each event is written at once, those that wait for
    the end of a send."""

    path: str | None = None
    role: str | None = None
    send: int | None = None
    details: bool = False
    react: Callable[[Event], None] | None = None
    spent: float = 0.0
    waiting: list[dict[str, object]] | None = None


_account = _Account()
_taken: dict[str, Any] = {}


def note(what: str, **fields: object) -> None:
    """Append a line to the run's file. Does nothing outside a run."""
    path = _account.path or os.environ.get(EVENTS_FILE)
    if path:
        line = {"at": time.monotonic(), "pid": os.getpid(), "what": what, **fields}
        if _account.waiting is None:
            _write(path, [line])
        else:
            _account.waiting.append(line)


def _write(path: str, lines: list[dict[str, object]]) -> None:
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    try:
        os.write(file, "".join(json.dumps(line) + "\n" for line in lines).encode())  # one write: processes do not mix
    finally:
        os.close(file)


def account_path() -> Path:
    """The file that this process's events are in. Raises RuntimeError if it is not recorded."""
    if _account.path is None:
        raise RuntimeError("nothing is recorded here")
    _write_waiting()
    return Path(_account.path)


def _write_waiting() -> None:
    if _account.waiting:
        _write(_account.path, _account.waiting)
        _account.waiting.clear()


def spent() -> float:
    """How many seconds this process has spent on its account, so that they need not count as somebody else's."""
    return _account.spent


def about(send: int | None) -> None:
    """From now on this process's events belong to this send (None: to none)."""
    _account.send = send
    if send is None:
        _write_waiting()


def install(path: str | None = None, role: str | None = None, *, details: bool = False) -> None:
    """Record, from now on, what this process does to shared-memory names, in the file at `path` (else in that of
    the guarded run; outside one this does nothing). `details` adds `map` and `close`."""
    path = path or os.environ.get(EVENTS_FILE)
    if path:
        _account.path, _account.role, _account.details = path, role, details
        if not _taken:
            _patch()


@contextlib.contextmanager
def recording(
    path: str, role: str, react: Callable[[Event], None] | None = None, *, at_once: bool = True
) -> Iterator[None]:
    """Record this process's events, `map` and `close` included, in the file at `path`, while the context lasts, and
    call `react` with each. One at a time. Unless `at_once`, they are written when a send is over: a process that may be
    killed cannot wait for that, and one whose sends are timed should."""
    if _account.path is not None:
        raise RuntimeError(f"this process is already recorded, in {_account.path}")
    Path(path).touch()
    install(path, role, details=True)
    _account.react, _account.waiting = react, None if at_once else []
    try:
        yield
    finally:
        _unpatch()
        _write_waiting()
        _account.path = _account.role = _account.send = _account.react = _account.waiting = None


def read(path: Path) -> list[Event]:
    """The events in a run's file, in order of time."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    events = [Event(**line) for line in lines if "name" in line]
    return sorted(events, key=lambda event: event.at)


def file_name(what: str, name: str) -> str:
    """The entry in /dev/shm that an event `what` about `name` made. (The library puts `sem.` before a semaphore's.)"""
    name = name.removeprefix("/")
    return f"sem.{name}" if what == "semaphore" else name


def role() -> str:
    """What this process is to sglang: `tokenizer`, `scheduler`, `detokenizer`, ... (its title says so)."""
    if _account.role:
        return _account.role
    with open("/proc/self/cmdline", "rb") as file:
        title = file.read().split(b"\0")[0].decode(errors="replace")
    return title.removeprefix("sglang::").split("_")[0] if title.startswith("sglang::") else "tokenizer"


def _patch() -> None:
    import _posixshmem

    shared = shared_memory.SharedMemory
    _taken.update(open=_posixshmem.shm_open, unlink=_posixshmem.shm_unlink)
    _taken.update(init=shared.__init__, close=shared.close, semaphore=synchronize.SemLock._make_name)
    _taken.update(link=os.link)
    _posixshmem.shm_open, _posixshmem.shm_unlink, os.link = _recorded_open, _recorded_unlink, _recorded_link
    synchronize.SemLock._make_name = staticmethod(_recorded_semaphore_name)
    if _account.details:
        shared.__init__, shared.close = _recorded_init, _recorded_close
    _watch_files()


@functools.cache  # once a process: an audit hook cannot be taken back, so it looks whether anything is recorded
def _watch_files() -> None:
    sys.addaudithook(_file_by_path)


def _unpatch() -> None:
    import _posixshmem

    shared = shared_memory.SharedMemory
    _posixshmem.shm_open, _posixshmem.shm_unlink, os.link = _taken["open"], _taken["unlink"], _taken["link"]
    synchronize.SemLock._make_name = staticmethod(_taken["semaphore"])
    shared.__init__, shared.close = _taken["init"], _taken["close"]
    _taken.clear()


def _recorded_open(path, flags, mode=0o777):
    what = "create" if flags & os.O_CREAT else "open"
    began = time.monotonic()
    try:
        descriptor = _taken["open"](path, flags, mode=mode)
    except OSError as error:
        _event(f"{what} failed", path, errno=error.errno)
        raise
    _event(what, path, at=began)
    return descriptor


def _recorded_unlink(path):
    began = time.monotonic()
    try:
        _taken["unlink"](path)
    except OSError as error:
        _event("unlink failed", path, errno=error.errno)
        raise
    _event("unlink", path, at=began)


def _recorded_link(source, target, **named):
    began = time.monotonic()
    ours = isinstance(target, str) and target.startswith(f"{SHM}/")
    try:
        _taken["link"](source, target, **named)
    except OSError as error:
        if ours:
            _event("link failed", target.removeprefix(SHM), errno=error.errno)
        raise
    if ours:
        _event("link", target.removeprefix(SHM), at=began)


def _recorded_semaphore_name():
    name = _taken["semaphore"]()
    _event("semaphore", name)
    return name


def _recorded_init(self, *arguments, **named):
    _taken["init"](self, *arguments, **named)
    _event("map", self._name, bytes=self.size)


def _recorded_close(self):
    mapped = self._mmap is not None
    _taken["close"](self)
    if mapped:
        _event("close", self._name)


def _file_by_path(happening: str, details: tuple) -> None:
    """Releases from 0.5.13 on also make plain files in /dev/shm. An audit hook is told before it happens."""
    if happening not in ("open", "os.remove") or not _taken or not str(details[0]).startswith(f"{SHM}/"):
        return
    path, there = str(details[0]), os.path.exists(details[0])
    if happening == "open" and details[2] & os.O_CREAT and not there:
        _event("create", path.removeprefix(SHM))
    elif happening == "os.remove" and there:
        _event("unlink", path.removeprefix(SHM))


def _event(what: str, name: str, *, at: float | None = None, **fields: Any) -> None:
    """Append an event. A success counts from the call's start, a failure from its end: then what failed because of
    another process's success stands behind it."""
    began = time.monotonic()
    at = began if at is None else at
    event = Event(at, os.getpid(), role(), what, name, _account.send, where=_caller(), **fields)
    note(**{key: value for key, value in vars(event).items() if value is not None})
    if what in (*NAMING, "semaphore") and (ledger := os.environ.get(LEDGER)):
        _write(ledger, [{"name": file_name(what, name)}])
    if _account.react:
        _account.react(event)
    _account.spent += time.monotonic() - began


def _caller() -> str | None:
    """The nearest frame that is neither here nor in `multiprocessing`: `mm_utils.py:1564 __setstate__`."""
    frame = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if path != __file__ and f"{os.sep}multiprocessing{os.sep}" not in path:
            return f"{os.path.basename(path)}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return None
