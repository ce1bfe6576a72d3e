"""Who created, opened, mapped, closed and unlinked which name in /dev/shm, when, in which process.

For each event, a process of a run appends one JSON line to the run's own file. The recorder patches the functions by
which Python calls the operating system: `_posixshmem.shm_open` and `shm_unlink`, `os.link`, `os.open`, `os.remove`,
`os.unlink`, the built-in `open`, and the creation of a named semaphore. So nothing of sglang is changed. The recorder
does not see a name that C code makes without Python, or a name that `os.rename`, `os.symlink` or `os.mkdir` makes.

The recorder never raises an error into the code that it records. It counts the events that it cannot write.
"""

from __future__ import annotations

import builtins
import contextlib
import io
import json
import os
import posix  # its `open` is never replaced
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker, shared_memory, synchronize
from pathlib import Path
from typing import Any

from repro.lab.evidence.event import MAKING, Event, events, lines
from repro.lab.evidence.in_order import OF_MEMORY, InOrder
from repro.lab.evidence.turnstile import Turnstile
from repro.lab.places import SHM

EVENTS_FILE = "SGLANG_SHM_KIT_EVENTS"  # environment variable: the file that an engine's processes append to
LEDGER = "SGLANG_SHM_KIT_LEDGER"  # environment variable: a file that gets every name made, for more than one run
_SHM = f"{SHM}/"


class Recorder:
    """Records what this process does to names, in the file at `path`, from `start` to `stop`. Also a context manager.

    `role` is the process's role in sglang (None: the process's title gives it). `details` adds the events `map` and
    `close`. `react` is called with each event. With `at_once`, each event is written when it happens: a process that
    may be killed needs this. Otherwise the events are written when a send is over: a process whose sends are timed
    needs this. `thread` is the only thread that is recorded (None: all threads), because other threads of the process
    are not part of the run. With a `turnstile`, the process waits for its turn before each recorded call. With an
    `order`, which an earlier run has recorded, the process waits for its turn in this order.

    `spent` counts the seconds that the recorder itself has taken.
    """

    def __init__(
        self,
        path: str | Path,
        role: str | None = None,
        *,
        details: bool = False,
        at_once: bool = True,
        react: Callable[[Event], None] | None = None,
        turnstile: Turnstile | None = None,
        order: InOrder | None = None,
    ) -> None:
        self.path, self._role, self.details, self.react = Path(path), role, details, react
        self.turnstile, self.order = turnstile, order
        self.thread: int | None = None
        self.send: int | None = None
        self.spent = 0.0
        self.lost, self._cut = 0, False
        self._waiting: list[dict[str, object]] | None = None if at_once else []
        self._undo = contextlib.ExitStack()

    def start(self) -> Recorder:
        """Record from now on. Returns the recorder itself. Raises OSError if the file cannot be opened, RuntimeError if
        this process is already recorded."""
        global _current
        if _current is not None:
            raise RuntimeError(f"this process is already recorded, in {_current.path}")
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        for holder, name, replace in self._patches():
            original = getattr(holder, name)
            setattr(holder, name, self._at_its_own_cost(original, replace))
            self._undo.callback(setattr, holder, name, original)
        _current = self
        return self

    def stop(self) -> None:
        """Remove the patches, and write the waiting events."""
        global _current
        self._undo.close()
        self._flush()
        if self.lost:
            self._write([])
        os.close(self._file)
        _current = None

    def __enter__(self) -> Recorder:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def about(self, send: int | None) -> None:
        """From now on, this process's events belong to this send (None: to no send)."""
        self.send = send
        if send is None:
            self._flush()

    def note(self, what: str, **fields: object) -> None:
        """Append a line to the run's file."""
        line = {"at": time.monotonic(), "pid": os.getpid(), "what": what, **fields}
        if self._waiting is None:
            self._write([line])
        else:
            self._waiting.append(line)

    def events(self) -> list[Event]:
        """What was recorded so far, by all processes of the run."""
        self._flush()
        return events(lines(self.path.read_bytes())[0])

    def role(self) -> str:
        """This process's role in sglang: `tokenizer`, `scheduler`, `detokenizer`, ..."""
        return self._role or _role_by_title()

    def _flush(self) -> None:
        if self._waiting:
            self._write(self._waiting)
            self._waiting = []

    def _write(self, notes: list[dict[str, object]]) -> None:
        """Write all lines by one call, so that the lines of two processes do not mix. If a full disk has cut the last
        line, begin a new one."""
        if self.lost:
            notes = [{"at": time.monotonic(), "pid": os.getpid(), "what": "lost", "count": self.lost}, *notes]
        text = b"\n" * self._cut + "".join(json.dumps(note) + "\n" for note in notes).encode()
        try:
            written = os.write(self._file, text)
        except OSError:
            self.lost += len(notes) - bool(self.lost)
        else:
            self._cut = written < len(text)
            self.lost = 0

    def _event(self, what: str, name: str, at: float | None = None, **fields: Any) -> Event | None:
        """Append an event, and return the event if this run records it. A successful call has the time of its start, a
        failed call has the time of its end. So if process B fails because process A succeeded, B's event comes after
        A's."""
        if not self._is_watched():
            return None
        began = time.monotonic() if at is None else at
        event = Event(began, os.getpid(), self.role(), what, name, self.send, where=_caller(), **fields)
        self.note(**{key: value for key, value in vars(event).items() if value is not None})
        if what in MAKING:
            _enter_into_ledger(event)
        return event

    def _then(self, event: Event | None) -> None:
        """React to an event when its turn is over. The reaction may kill this process. Then the event is written
        already, and no other process waits for this process's turn to end."""
        if event and self.react:
            self.react(event)

    def _is_watched(self) -> bool:
        return self.thread in (None, threading.get_ident())

    def _at_its_own_cost(self, original: Callable, replace: Callable[[Callable], Callable]) -> Callable:
        """The replacement for `original`. The seconds that the replacement takes are added to `spent`, without the
        seconds that `original` takes."""
        return self._counted(replace(self._counted(original, -1)), 1)

    def _counted(self, call: Callable, sign: int) -> Callable:
        """`call`, whose time is added to `spent` (1) or taken off it (-1)."""

        def counted(*arguments: Any, **named: Any) -> Any:
            began = time.monotonic()
            try:
                return call(*arguments, **named)
            finally:
                if self._is_watched():
                    self.spent += sign * (time.monotonic() - began)

        return counted

    def _patches(self) -> Iterator[tuple[Any, str, Callable[[Callable], Any]]]:
        """What is replaced while this process is recorded: holder, name, and what makes the replacement."""
        import _posixshmem

        yield _posixshmem, "shm_open", self._opens
        yield _posixshmem, "shm_unlink", self._unlinks
        yield os, "link", self._links
        yield os, "open", self._opens_files
        yield io, "open", self._opens_files
        yield builtins, "open", self._opens_files
        yield os, "remove", self._removes_files
        yield os, "unlink", self._removes_files
        yield synchronize.SemLock, "__init__", self._makes_semaphores
        if self.turnstile and self.role() == "tokenizer":
            yield resource_tracker, "register", self._registers
        if self.details:
            yield shared_memory.SharedMemory, "__init__", self._maps
            yield shared_memory.SharedMemory, "close", self._closes

    def _opens(self, original: Callable[..., int]) -> Callable[..., int]:
        def shm_open(path: str, flags: int, mode: int = 0o777) -> int:
            what = "create" if flags & os.O_CREAT else "open"
            with self._recorded(what, path) as fields:
                descriptor = original(path, flags, mode=mode)
                fields["inode"] = os.fstat(descriptor).st_ino
            return descriptor

        return shm_open

    def _unlinks(self, original: Callable[[str], None]) -> Callable[[str], None]:
        def shm_unlink(path: str) -> None:
            with self._recorded("unlink", path):
                original(path)

        return shm_unlink

    def _links(self, original: Callable[..., None]) -> Callable[..., None]:
        def link(source: Any, target: Any, **named: Any) -> None:
            name = _name_in_shm(target)
            if name is None:
                return original(source, target, **named)
            with self._recorded("link", name) as fields:
                original(source, target, **named)
                fields["inode"] = _inode(target)

        return link

    def _opens_files(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Some releases make their segments as plain files in /dev/shm. Only calls that make a new file are
        recorded."""

        def open(file: Any, *arguments: Any, **named: Any) -> Any:
            name = _name_in_shm(file)
            if name is None or os.path.lexists(file):
                return original(file, *arguments, **named)
            exclusive = _is_exclusive(arguments, named)
            if not exclusive and not _makes(arguments, named):
                return original(file, *arguments, **named)
            with self.turn("create", name):
                began = time.monotonic()
                ours = None if exclusive else _made_alone(file, arguments, named)
                opened = original(file, *arguments, **named)
                inode = os.fstat(opened if isinstance(opened, int) else opened.fileno()).st_ino
                made = exclusive or inode == ours
                event = self._event("create", name, began, inode=inode) if made else None
            self._then(event)
            return opened

        return open

    def _removes_files(self, original: Callable[..., None]) -> Callable[..., None]:
        def remove(path: Any, **named: Any) -> None:
            name = _name_in_shm(path)
            if name is None:
                return original(path, **named)
            with self._recorded("unlink", name):
                original(path, **named)

        return remove

    def _makes_semaphores(self, original: Callable[..., None]) -> Callable[..., None]:
        def __init__(lock: Any, *arguments: Any, **named: Any) -> None:
            began = time.monotonic()
            original(lock, *arguments, **named)
            if name := lock._semlock.name:  # None if the name was unlinked at once, as with the start method "fork"
                self._event("semaphore", name, began, inode=_inode(SHM / f"sem.{name.removeprefix('/')}"))

        return __init__

    def _maps(self, original: Callable[..., None]) -> Callable[..., None]:
        def __init__(segment: Any, *arguments: Any, **named: Any) -> None:
            original(segment, *arguments, **named)
            with self.turn("map", segment._name):
                event = self._event("map", segment._name, bytes=segment.size)
            self._then(event)

        return __init__

    def _closes(self, original: Callable[..., None]) -> Callable[..., None]:
        def close(segment: Any) -> None:
            if segment._mmap is None:
                return original(segment)
            with self.turn("close", segment._name):
                original(segment)
                event = self._event("close", segment._name)
            self._then(event)

        return close

    def turn(self, what: str, name: str = "") -> contextlib.AbstractContextManager[None]:
        """A context that is entered when it is this process's turn. Without a turnstile or an order, it is entered at
        once."""
        if self._is_watched():
            if self.order:
                return self.order.turn(what)
            if self.turnstile and what not in OF_MEMORY:
                return self.turnstile.turn(what, name)
        return contextlib.nullcontext()

    def _registers(self, original: Callable[..., None]) -> Callable[..., None]:
        """Only with a turnstile: the first time that this process tells the resource tracker about a name waits for its
        turn."""

        def register(name: str, kind: str) -> None:
            with self.turn("register", name) if self.turnstile.is_new(name) else contextlib.nullcontext():
                original(name, kind)

        return register

    @contextlib.contextmanager
    def _recorded(self, what: str, name: str) -> Iterator[dict[str, Any]]:
        """A context around one act. If the act succeeds, it is recorded with the fields that were put into the
        context's dict. If the act raises OSError, its failure is recorded."""
        fields: dict[str, Any] = {}
        with self.turn(what, name):
            began = time.monotonic()
            try:
                yield fields
            except OSError as error:
                self._event(f"{what} failed", name, errno=error.errno)
                raise
            event = self._event(what, name, began, **fields)
        self._then(event)


_current: Recorder | None = None


def current() -> Recorder | None:
    """The recorder of this process, or None."""
    return _current


def install() -> None:
    """Record this process to its end, in the file that the environment variable EVENTS_FILE names. Does nothing if the
    variable is not set, or if this process is recorded already."""
    path = os.environ.get(EVENTS_FILE)
    if path and _current is None:
        Recorder(path).start()


def note(what: str, **fields: object) -> None:
    """Append a line to the file of the run that this process belongs to. Does nothing outside a run."""
    if _current is not None:
        _current.note(what, **fields)


def _role_by_title() -> str:
    try:
        with io.FileIO("/proc/self/cmdline") as file:
            title = file.read().split(b"\0")[0].decode(errors="replace")
    except OSError:  # no descriptor left
        return "unknown"
    return title.removeprefix("sglang::").split("_")[0] if title.startswith("sglang::") else "tokenizer"


def _enter_into_ledger(event: Event) -> None:
    if ledger := os.environ.get(LEDGER):
        with contextlib.suppress(OSError), io.FileIO(ledger, "a") as file:
            file.write(f"{event.path.name} {event.inode}\n".encode())


def _name_in_shm(path: Any) -> str | None:
    """`/name` for any spelling of a path directly in /dev/shm; None for any other path."""
    if not isinstance(path, (str, bytes, os.PathLike)):
        return None
    text = os.fsdecode(path)
    if not text.startswith(_SHM):
        return None
    folder, name = os.path.split(os.path.normpath(text))
    return f"/{name}" if folder == str(SHM) else None


def _how(arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """The mode (a text) that a file is opened with, or the flags (a number)."""
    return arguments[0] if arguments else named.get("mode" if "flags" not in named else "flags", "r")


def _is_exclusive(arguments: tuple[Any, ...], named: dict[str, Any]) -> bool:
    """Whether this call opens the file only if the call itself makes the file."""
    how = _how(arguments, named)
    return "x" in how if isinstance(how, str) else bool(how & os.O_CREAT and how & os.O_EXCL)


def _makes(arguments: tuple[Any, ...], named: dict[str, Any]) -> bool:
    """Whether the call makes the file if there is none."""
    how = _how(arguments, named)
    return bool(set("wax") & set(how)) if isinstance(how, str) else bool(how & os.O_CREAT)


def _made_alone(file: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> int | None:
    """Make the empty file that a call is about to make, and return its inode; None if another process was faster. Only
    an exclusive open can tell which of the two processes has made the file."""
    mode = 0o666
    if not isinstance(_how(arguments, named), str):
        mode = arguments[1] if len(arguments) > 1 else named.get("mode", 0o777)
    try:
        descriptor = posix.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except OSError:  # another process has made it, or the recorded call will fail, too
        return None
    try:
        return os.fstat(descriptor).st_ino
    finally:
        os.close(descriptor)


def _inode(path: Any) -> int | None:
    try:
        return os.lstat(path).st_ino
    except OSError:  # gone by now
        return None


def _caller() -> str | None:
    """The nearest frame outside this file, `multiprocessing` and `contextlib`: `mm_utils.py:1564 __setstate__`."""
    frame = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if path not in (__file__, contextlib.__file__) and f"{os.sep}multiprocessing{os.sep}" not in path:
            return f"{os.path.basename(path)}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return None
