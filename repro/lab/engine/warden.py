"""Watches over one child whose whole process tree may die, hang or be abandoned, and cleans up after it.

The warden is a small process between a script and the engine. It leads a session of its own. So Ctrl-C does not reach
the warden, and sglang does not kill it when sglang kills its own process tree. The warden is the subreaper of the tree,
so every orphan becomes its child. The warden holds one end of a pipe to the script. So it knows at once when the script
is gone, even after SIGKILL. At the end of every run, the warden kills the processes that are left, unlinks the names
that this run made, and removes the run's folder.

The warden reads a `Task` (one JSON line) from standard input. It writes JSON lines to standard output: a line for each
process that it sees, a line for each phase of the child, and at last the `Report`. A warden is a new process (`main`),
or a host has forked it (`repro/lab/engine/host.py`). In the second case the child is forked, too, and has imported
sglang already.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import shutil
import signal
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import psutil

from repro.lab.evidence import event, leftovers

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
GRACE = 3.0  # seconds in which the rest of a dying tree may end by itself
TICK = 0.02
RECORDED = ("scheduler", "detokenizer")  # the roles of sglang's processes besides the tokenizer


@dataclass(frozen=True)
class Task:
    """What to run and for how long: the function `scene` (file and name) with the arguments `given` (JSON). `limits`
    maps `boot` and `generate` to seconds; `folder` is removed at the end."""

    scene: tuple[str, str]
    given: str
    environment: dict[str, str]
    events: str
    log: str
    folder: str
    limits: dict[str, float]


@dataclass
class Report:
    """What the warden saw. `ended` is `exited`, `hung` or `abandoned`. `status` is as in `subprocess` (-9: SIGKILL).
    `seconds` maps each phase to its start, and `answers` and `exit` to their time, all counted from the child's start.
    `notes` are the lines of the run's record. `missing` counts events that are not in the record."""

    ended: str
    status: int | None = None
    died: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[dict[str, Any]] = field(default_factory=list)
    missing: int = 0
    log: str = ""
    segments: list[str] = field(default_factory=list)
    processes: list[str] = field(default_factory=list)
    remaining: list[str] = field(default_factory=list)


def main() -> None:
    """Run one task from standard input, in a child that is a new Python."""
    task = read_task()
    child = start(task)
    if not child:
        os.execve(sys.executable, [sys.executable, "-m", "repro.lab.engine.child", *task.scene], task.environment)
    watch(task, child)


def read_task() -> Task:
    """Make this process a warden (its own session, subreaper), and return the task from standard input."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    line = bytearray()
    while not line.endswith(b"\n"):
        line += os.read(0, 1 << 20) or sys.exit()
    return Task(**json.loads(line))


def start(task: Task) -> int:
    """Fork the child. Returns its pid in the warden, and 0 in the child. The child leads a session of its own, dies
    with the warden, reads the scene's arguments from standard input, and prints into the log."""
    Path(task.events).touch()
    given = Path(task.folder, "arguments.json")
    given.write_text(task.given, encoding="utf-8")
    child = os.fork()
    if not child:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.setsid()
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        log = os.open(task.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        for stream, standard in ((os.open(given, os.O_RDONLY), 0), (log, 1), (log, 2)):
            os.dup2(stream, standard)
    return child


def watch(task: Task, child: int) -> None:
    """Follow the child to its end, clean up, and write the report."""
    with open(task.events, "rb") as events:  # stays open to the end: an open file shows that the folder is in use
        _say(report=asdict(Watch(task, child, events).run()))


class Watch:
    """One task while it runs."""

    def __init__(self, task: Task, child: int, events: BinaryIO) -> None:
        self.task, self.child, self.events = task, child, events
        self.began = time.monotonic()
        self.report = Report(ended="")
        self.titles: dict[int, str] = {}
        self.statuses: dict[int, int] = {}
        self.deadline = self.began + task.limits["boot"]
        self.next_look = 0.0
        self.part = b""
        self.unreadable = 0

    def run(self) -> Report:
        """Follow the child to its end, clean up, and return what was seen."""
        try:
            self._follow()
            self._note_survivors(GRACE if self.report.ended == "exited" else 0.0)
            self._kill()
            self._collect()
            self._sweep()
        finally:
            self._kill()
            shutil.rmtree(self.task.folder, ignore_errors=True)
        return self.report

    def _follow(self) -> None:
        while not self.report.ended:
            self._read_events()
            self._look()
            self._reap()
            if self.child in self.statuses:
                self.report.ended = "exited"
            elif time.monotonic() > self.deadline:
                self.report.ended = "hung"
            elif select.select([0], [], [], TICK)[0] and not os.read(0, 1):
                self.report.ended = "abandoned"
        self.report.seconds["exit"] = time.monotonic() - self.began

    def _read_events(self) -> None:
        whole, _, self.part = (self.part + self.events.read()).rpartition(b"\n")
        notes, unreadable = event.lines(whole)
        self.unreadable += unreadable
        for note in notes:
            self.report.notes.append(note)
            if note["what"] == "answers":
                self.report.seconds["answers"] = note["at"] - self.began
            elif note["what"] == "phase":
                self.report.seconds[note["phase"]] = note["at"] - self.began
                if note["phase"] == "generate":
                    self.deadline = note["at"] + self.task.limits["generate"]
                self.next_look = 0.0
                _say(phase=note["phase"])

    def _look(self) -> None:
        """Note the processes and their titles. sglang does not wait for its detokenizer, so the detokenizer may get its
        title only while the first request waits. So look rarely during the boot, and often after it."""
        if time.monotonic() > self.next_look:
            for process in _descendants():
                if process.pid not in self.titles:
                    _say(process=[process.pid, process.create_time()])
                title = _title(process)
                if title == self.titles.get(_parent(process)):  # a fork that is about to become another program
                    title = ""
                self.titles[process.pid] = title or self.titles.get(process.pid, "")
            self.next_look = time.monotonic() + (2 * TICK if "generate" in self.report.seconds else 0.5)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            self.statuses[pid] = os.waitstatus_to_exitcode(status)

    def _note_survivors(self, grace: float) -> None:
        until = time.monotonic() + grace
        while (alive := _descendants()) and time.monotonic() < until:
            self._reap()
            time.sleep(TICK)
        if self.report.ended == "exited":
            self.report.processes = [f"{process.pid} {_title(process)}" for process in alive]

    def _kill(self) -> None:
        """Kill until no process is left: a process may fork while its parent is being killed. (`psutil.wait_procs` is
        not used, because it would read the statuses that this process needs.)"""
        until = time.monotonic() + 30
        while (alive := _descendants()) and time.monotonic() < until:
            for process in alive:
                try:
                    process.kill()
                except psutil.NoSuchProcess:
                    pass
            time.sleep(TICK)
            self._reap()
        self.report.remaining = [f"{process.pid} {_title(process)}" for process in alive]

    def _collect(self) -> None:
        self._read_events()
        self.report.missing = event.missing(self.report.notes, self.unreadable + bool(self.part))
        self._reap()
        self.report.status = self.statuses.get(self.child)
        self.report.died = [f"tokenizer {_ending(self.report.status)}" if self.report.status is not None else ""]
        self.report.died += [f"{role} gone with it" for role in sorted(self._gone())]
        with open(self.task.log, "rb") as log:
            log.seek(max(0, os.path.getsize(self.task.log) - (1 << 20)))
            self.report.log = log.read().decode(errors="replace")

    def _gone(self) -> list[str]:
        """The roles of sglang's other processes that ended by themselves. (Only their parent knows how they ended.) The
        warden knows a process by its title. If the process ended before its title was seen, the record names it."""
        alive = {int(entry.partition(" ")[0]) for entry in self.report.processes}
        recorded = {note["pid"]: note["role"] for note in self.report.notes if note.get("role") in RECORDED}
        titled = {pid: title for pid, title in self.titles.items() if title.startswith("sglang::")}
        roles = recorded | {pid: title.removeprefix("sglang::") for pid, title in titled.items()}
        return [role for pid, role in roles.items() if pid not in alive]

    def _sweep(self) -> None:
        """Unlink the names that this run made and that are still there. No other name in /dev/shm is touched."""
        self.report.segments, remaining = leftovers.sweep(event.events(self.report.notes))
        self.report.remaining += remaining


def _descendants() -> list[psutil.Process]:
    """Every living process below this one, orphans included (this process is their subreaper)."""
    alive = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                alive.append(process)
        except psutil.NoSuchProcess:
            pass
    return alive


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()).strip()[:120]
    except psutil.Error:
        return ""


def _parent(process: psutil.Process) -> int:
    try:
        return process.ppid()
    except psutil.Error:
        return 0


def _ending(status: int) -> str:
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exited with {status}"


def _say(**line: object) -> None:
    try:
        os.write(1, (json.dumps(line) + "\n").encode())
    except OSError:  # the script is gone
        pass


if __name__ == "__main__":
    main()
