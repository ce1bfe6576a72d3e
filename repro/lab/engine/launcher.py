"""Run something that may kill its whole process tree, and come back with a verdict."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from repro.lab.engine import host
from repro.lab.engine.warden import Report, Task
from repro.lab.evidence import last_words, recorder
from repro.lab.evidence.verdict import Leftovers, Seconds, Verdict

ROOT = Path(__file__).resolve().parents[3]
LIMITS = {"boot": 300.0, "generate": 120.0}  # seconds
NOT_OF_NAMES = ("phase", "answers", "refused", "start_method")
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
    """The verdict on `scene(arguments)`, called in a child of its own process group, under a warden.

    The scene is found again by its file and name; its arguments and what it returns must be JSON. `environment` is
    added to this process's. The child is forked by the host `on`, or by the host that this process has inherited, if
    there is one that has imported what the scene would import; else it is a Python of its own. `log` receives what the
    run prints (else it is kept only while it is read). `on_phase` is called with `model`, `import`, `boot` and
    `generate` as they begin. When this process is interrupted or killed, the warden ends the run and leaves nothing of
    it behind.
    """
    folder = tempfile.mkdtemp(prefix="shm-kit-")
    given = {key: str(value) if isinstance(value, Path) else value for key, value in vars(arguments).items()}
    task = Task(
        scene=(scene.__code__.co_filename, scene.__name__),
        given=json.dumps(given),
        environment={**os.environ, **(environment or {}), **_surroundings(folder)},
        events=f"{folder}/events.jsonl",
        log=str(log or f"{folder}/log.txt"),
        folder=folder,
        limits=dict(limits),
    )
    try:
        return _verdict(_watched(task, on, on_phase), arguments)
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # the warden has done so, if there was one


def _surroundings(folder: str) -> dict[str, str]:
    """The run's own corner: where its processes find this package, record events and put temporary files."""
    return {"PYTHONPATH": host.python_path(), recorder.EVENTS_FILE: f"{folder}/events.jsonl", "TMPDIR": folder}


def _watched(task: Task, on: host.Host | None, on_phase: Callable[[str], None]) -> Report:
    report = None
    with _warden(task, on) as (to_warden, from_warden):
        to_warden.write(json.dumps(asdict(task)).encode() + b"\n")
        to_warden.flush()
        for line in from_warden:
            said = json.loads(line)
            if "phase" in said:
                on_phase(said["phase"])
            else:
                report = Report(**said["report"])
    if report is None:
        raise RuntimeError(f"the warden ended without a report{on.last_words() if on else ''}")
    return report


@contextmanager
def _warden(task: Task, on: host.Host | None) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """A warden: what it reads, and what it says. On an interrupt the closed pipe tells the warden, and the context ends
    when the warden has cleaned up."""
    descriptor = host.for_scene(task.environment, on)
    for_warden, to_warden = os.pipe()
    from_warden, by_warden = os.pipe()
    with open(to_warden, "wb") as asks, open(from_warden, "rb") as says:
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


def _verdict(report: Report, arguments: Namespace) -> Verdict:
    noted = {event["what"]: event for event in report.events}
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
        events=[event for event in report.events if event["what"] not in NOT_OF_NAMES],
    )
    if "refused" in noted:
        verdict.outcome, verdict.message = "refused", noted["refused"]["error"]
    elif "answers" in noted:
        verdict.outcome, verdict.answers = "survived", noted["answers"]["answers"]
    elif report.ended == "hung":
        verdict.outcome = "hung"
    elif words := last_words.read(report.log):
        verdict.error, verdict.message, verdict.errno = words.error, words.message, words.errno
        verdict.segment, verdict.where = words.segment, words.where
        verdict.frames = [frame.text for frame in words.frames[-FRAMES:]]
    else:
        verdict.error = report.died[0]
    return verdict


def _seconds(at: dict[str, float]) -> Seconds:
    ready, over = at.get("generate"), at["exit"]
    generated = at.get("answers", over) - ready if ready else None
    return Seconds(boot=_rounded(ready or over), generate=_rounded(generated), total=_rounded(over))


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 2)
