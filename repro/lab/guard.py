"""Run something that may kill its whole process tree, and come back with a verdict."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from repro.lab import last_words, recorder
from repro.lab.verdict import Leftovers, Seconds, Verdict
from repro.lab.warden import Report, Task

ROOT = Path(__file__).resolve().parents[2]
LIMITS = {"boot": 300.0, "generate": 120.0}  # seconds
FRAMES = 4  # how many of the last frames a verdict keeps


def run(
    scene: Callable[[Namespace], Any],
    arguments: Namespace,
    *,
    environment: Mapping[str, str] | None = None,
    limits: Mapping[str, float] = LIMITS,
    log: Path | None = None,
    on_phase: Callable[[str], None] = lambda phase: None,
) -> Verdict:
    """The verdict on `scene(arguments)`, called in a child of its own process group, under a warden.

    The scene is found again by its file and name; its arguments and what it returns must be JSON. `environment` is
    added to this process's; `log` receives what the run prints (else it is kept only while it is read). `on_phase`
    is called with `model`, `import`, `boot` and `generate` as they begin.
    When this process is interrupted or killed, the warden ends the run and leaves nothing of it behind.
    """
    folder = tempfile.mkdtemp(prefix="shm-kit-")
    given = {key: str(value) if isinstance(value, Path) else value for key, value in vars(arguments).items()}
    task = Task(
        command=[sys.executable, "-m", "repro.lab.child", scene.__code__.co_filename, scene.__name__],
        given=json.dumps(given),
        environment={**os.environ, **(environment or {}), **_surroundings(folder)},
        events=f"{folder}/events.jsonl",
        log=str(log or f"{folder}/log.txt"),
        folder=folder,
        limits=dict(limits),
    )
    return _verdict(_watched(task, on_phase), arguments)


def _surroundings(folder: str) -> dict[str, str]:
    """The run's own corner: where its processes find this package, record events and put temporary files."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {"PYTHONPATH": path, recorder.EVENTS_FILE: f"{folder}/events.jsonl", "TMPDIR": folder}


def _watched(task: Task, on_phase: Callable[[str], None]) -> Report:
    environment = {**os.environ, "PYTHONPATH": task.environment["PYTHONPATH"]}
    warden = subprocess.Popen(
        [sys.executable, "-m", "repro.lab.warden"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )
    report = None
    try:
        warden.stdin.write(json.dumps(asdict(task)).encode() + b"\n")
        warden.stdin.flush()
        for line in warden.stdout:
            said = json.loads(line)
            if "phase" in said:
                on_phase(said["phase"])
            else:
                report = Report(**said["report"])
    finally:  # on an interrupt: the closed pipe tells the warden, and we wait until it has cleaned up
        warden.stdin.close()
        warden.stdout.close()
        warden.wait()
    if report is None:
        raise RuntimeError(f"the warden ended with status {warden.returncode} and no report")
    return report


def _verdict(report: Report, arguments: Namespace) -> Verdict:
    noted = {event["what"]: event for event in report.events}
    verdict = Verdict(
        outcome="crashed",
        n=getattr(arguments, "n", None),
        release=version("sglang"),
        device=getattr(arguments, "device", None),
        model=getattr(arguments, "model", None),
        seconds=_seconds(report.seconds),
        leftovers=Leftovers(report.segments, report.processes, report.remaining),
        died=report.died,
        events=[event for event in report.events if event["what"] not in ("phase", "answers", "refused")],
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
