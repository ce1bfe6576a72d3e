"""Run a scene, a function that may kill its whole process tree, and return a verdict all the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import psutil

from repro.lab import folders, limits
from repro.lab.engine import host
from repro.lab.engine.warden import Report, Task
from repro.lab.evidence import event, last_words, leftovers, recorder
from repro.lab.evidence.verdict import TOO_LONG, Leftovers, Seconds, Verdict
from repro.lab.refused import Refused

LIMITS = {"boot": 300.0, "generate": 120.0}  # seconds
NOT_OF_NAMES = ("phase", "answers", "refused", "start_method", "lost")
FRAMES = 4  # how many of the last frames a verdict keeps


def run(
    scene: Callable[[Namespace], Any],
    arguments: Namespace,
    *,
    environment: Mapping[str, str] | None = None,
    on: host.Host | None = None,
    limits: Mapping[str, float] = LIMITS,
    log: Path | None = None,
    on_phase: Callable[[str], None] = lambda phase: None,
) -> Verdict:
    """Run `scene(arguments)` in a child with a process group of its own, under a warden. Returns the verdict.

    The child finds the scene by its file and name. The arguments and the result of the scene must be JSON.
    `environment` is added to this process's environment. If there is a fitting host (`on`, or one that this process has
    inherited), the host forks the child. Otherwise the child is a new Python. `log` receives what the run prints;
    without `log`, this text is kept only while it is read. `on_phase` is called with `model`, `import`, `boot` and
    `generate` when these phases begin. If this process is interrupted or killed, the warden ends the run and leaves
    nothing behind. Raises Refused if the warden itself is killed.
    """
    given = {key: str(value) if isinstance(value, Path) else value for key, value in vars(arguments).items()}
    with folders.folder("run") as folder:
        task = Task(
            scene=(scene.__code__.co_filename, scene.__name__),
            given=json.dumps(given),
            environment={**os.environ, **(environment or {}), **_surroundings(folder)},
            events=str(folder / "events.jsonl"),
            log=str(log or folder / "log.txt"),
            folder=str(folder),
            limits=dict(limits),
        )
        return _verdict(_watched(task, on, on_phase), arguments)


def _surroundings(folder: Path) -> dict[str, str]:
    """The run's own environment: where its processes find this package, record events and make temporary files."""
    path = str(folder / "events.jsonl")
    return {"PYTHONPATH": host.python_path(), recorder.EVENTS_FILE: path, "TMPDIR": str(folder)}


def _watched(task: Task, on: host.Host | None, on_phase: Callable[[str], None]) -> Report:
    report, seen = None, []
    with _warden(task, on) as (to_warden, from_warden):
        try:
            to_warden.write(json.dumps(asdict(task)).encode() + b"\n")
            to_warden.flush()
        except BrokenPipeError:  # the warden is gone already; what it wrote before is still read
            pass
        for line in from_warden:
            said = json.loads(line)
            if "phase" in said:
                on_phase(said["phase"])
            elif "process" in said:
                seen.append(said["process"])
            else:
                report = Report(**said["report"])
    if report is None:
        _clean_up_for_a_dead_warden(task, seen)
        raise Refused(f"the warden of this run ended without a report{on.last_words() if on else ''}", "run it again")
    return report


@contextmanager
def _warden(task: Task, on: host.Host | None) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """A context with a running warden: the pipe that it reads, and the pipe that it writes. On an interrupt, the first
    pipe is closed, so that the warden knows. The context ends when the warden has cleaned up."""
    descriptor = host.for_scene(task.environment, on)
    for_warden, to_warden = os.pipe()
    from_warden, by_warden = os.pipe()
    with open(to_warden, "wb", buffering=0) as asks, open(from_warden, "rb") as says:
        process = None
        try:
            if descriptor is None:
                process = _own_warden(for_warden, by_warden)
            else:
                host.fork_warden(descriptor, for_warden, by_warden)
        finally:
            os.close(for_warden)
            os.close(by_warden)
        try:
            yield asks, says
        finally:
            with limits.uninterrupted():  # a second Ctrl-C waits, too, until everything that was started is gone
                asks.close()
                while says.read(1 << 16):
                    pass
                if process:
                    process.wait()


def _own_warden(stdin: int, stdout: int) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "repro.lab.engine.warden"],
        stdin=stdin,
        stdout=stdout,
        env={**os.environ, "PYTHONPATH": host.python_path()},
        start_new_session=True,
    )


def _clean_up_for_a_dead_warden(task: Task, seen: list[tuple[int, float]]) -> None:
    """After the warden was killed: kill the processes that it had seen, by pid and start time, and remove their
    names."""
    killed = []
    for pid, created in seen:
        try:
            process = psutil.Process(pid)
            if process.create_time() == created:
                process.kill()
                killed.append(process)
        except psutil.Error:  # gone
            pass
    psutil.wait_procs(killed, timeout=10)  # a living process could still make names, and files in the folder
    if os.path.exists(task.events):
        leftovers.sweep(event.events(event.lines(Path(task.events).read_bytes())[0]))


def _verdict(report: Report, arguments: Namespace) -> Verdict:
    noted = {note["what"]: note for note in report.notes}
    verdict = Verdict(
        outcome="crashed",
        n=getattr(arguments, "n", None),
        release=version("sglang"),
        device=getattr(arguments, "device", None),
        model=getattr(arguments, "model", None),
        start_method=noted.get("start_method", {}).get("method"),
        seconds=_seconds(report.seconds),
        leftovers=Leftovers(report.segments, report.processes, report.remaining),
        died=report.died,
        events=[note for note in report.notes if note["what"] not in NOT_OF_NAMES],
        missing=report.missing,
    )
    if "refused" in noted:
        verdict.outcome, verdict.message = "refused", noted["refused"]["error"]
    elif "answers" in noted:
        verdict.outcome, verdict.answers = "survived", noted["answers"]["answers"]
    elif report.ended == "hung":
        verdict.outcome, verdict.error = "hung", TOO_LONG
    elif words := last_words.read(report.log):
        verdict.died_of(words, frames=FRAMES)
    else:
        verdict.error = report.died[0]
    return verdict


def _seconds(at: dict[str, float]) -> Seconds:
    ready, over = at.get("generate"), at["exit"]
    generated = at.get("answers", over) - ready if ready else None
    return Seconds(boot=_rounded(ready or over), generate=_rounded(generated), total=_rounded(over))


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 2)
