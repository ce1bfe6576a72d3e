"""Who created, opened and unlinked which shared-memory name, when, in which process.

Every process of a run appends one JSON line an event to the run's own file. The names are taken where CPython
calls the operating system (`_posixshmem.shm_open`, `shm_unlink`, and `open` for files made in /dev/shm by path), so
nothing of sglang is touched and no name that the run created is missed. Times are the system's monotonic clock,
which all processes share.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from multiprocessing import synchronize

SHM = "/dev/shm"
EVENTS_FILE = "SGLANG_SHM_KIT_EVENTS"  # environment variable: the file that this run's processes append to


@dataclass(frozen=True)
class Event:
    """One thing that happened to one name. `what` is `create`, `open`, `open failed`, `unlink`, `unlink failed`
    or `semaphore`; `where` is the caller outside the standard library, as `file:line function`."""

    at: float
    pid: int
    role: str
    what: str
    name: str
    errno: int | None = None
    where: str | None = None


def note(what: str, **fields: object) -> None:
    """Append a line to the run's file. Does nothing outside a run."""
    path = os.environ.get(EVENTS_FILE)
    if path:
        line = json.dumps({"at": time.monotonic(), "pid": os.getpid(), "what": what, **fields}) + "\n"
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            os.write(file, line.encode())  # one write: lines of different processes do not mix
        finally:
            os.close(file)


def install() -> None:
    """Record, from now on, what this process does to shared-memory names. Does nothing outside a run."""
    if not os.environ.get(EVENTS_FILE):
        return
    import _posixshmem

    shm_open, shm_unlink = _posixshmem.shm_open, _posixshmem.shm_unlink
    semaphore_name = synchronize.SemLock._make_name

    def recorded_open(path, flags, mode=0o777):
        what = "create" if flags & os.O_CREAT else "open"
        try:
            descriptor = shm_open(path, flags, mode=mode)
        except OSError as error:
            _event(f"{what} failed", path, error)
            raise
        _event(what, path)
        return descriptor

    def recorded_unlink(path):
        try:
            shm_unlink(path)
        except OSError as error:
            _event("unlink failed", path, error)
            raise
        _event("unlink", path)

    def recorded_semaphore_name():
        name = semaphore_name()
        _event("semaphore", name)
        return name

    _posixshmem.shm_open, _posixshmem.shm_unlink = recorded_open, recorded_unlink
    synchronize.SemLock._make_name = staticmethod(recorded_semaphore_name)
    sys.addaudithook(_file_made_by_path)


def role() -> str:
    """What this process is to sglang: `tokenizer`, `scheduler`, `detokenizer`, ... (its title says so)."""
    with open("/proc/self/cmdline", "rb") as file:
        title = file.read().split(b"\0")[0].decode(errors="replace")
    return title.removeprefix("sglang::").split("_")[0] if title.startswith("sglang::") else "tokenizer"


def _file_made_by_path(happening: str, details: tuple) -> None:
    """Releases from 0.5.13 on also make plain files in /dev/shm."""
    if happening == "open" and isinstance(details[0], str) and details[0].startswith(f"{SHM}/"):
        path, _, flags = details
        if flags & os.O_CREAT and not os.path.exists(path):
            _event("create", path.removeprefix(SHM))


def _event(what: str, name: str, error: OSError | None = None) -> None:
    event = Event(time.monotonic(), os.getpid(), role(), what, name, error.errno if error else None, _caller())
    note(**{key: value for key, value in asdict(event).items() if value is not None})


def _caller() -> str | None:
    """The nearest frame that is neither here nor in `multiprocessing`: `mm_utils.py:1564 __setstate__`."""
    frame = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if path != __file__ and f"{os.sep}multiprocessing{os.sep}" not in path:
            return f"{os.path.basename(path)}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return None
