"""What notebooks show: pictures (SVG that needs no kernel), commands with their output, and errors that must happen."""

from __future__ import annotations

import atexit
import contextlib
import functools
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from IPython.display import clear_output

from repro.lab import engine, pictures
from repro.lab.engine import child, launcher, report
from repro.lab.engine.command import on_the_cpu, settle
from repro.lab.engine.host import Host
from repro.lab.evidence.verdict import Outcome, Verdict
from repro.lab.lifted import Run
from repro.lab.places import ROOT
from repro.lab.teaching import prediction, transcript
from repro.lab.teaching.inline import Picture
from repro.lab.terminal import aligned

LIMIT = 600.0  # seconds for a command


def lanes(run: Run, title: str = "") -> Picture:
    """The picture tokenizer | the kernel's name table | scheduler of a run."""
    return Picture(pictures.lanes(run.events, labels=run.labels, title=title, times=True))


def graph(roots: Mapping[str, object], mutated: object = None, title: str = "") -> Picture:
    """The picture of the objects that `roots` lead to, and of what they share: requests, `mm_inputs`, `mm_items`,
    items, features. See `pictures.graph`."""
    return Picture(pictures.graph(roots, mutated=mutated, title=title))


def command(line: str) -> None:
    """Run a command of this repository (`python repro/crash.py`) and print its output, without this machine's paths and
    without upstream's source lines. Raises RuntimeError if the command does not exit with 0."""
    words = line.removeprefix("python ").split()
    run = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, encoding="utf-8", timeout=LIMIT)
    print(transcript.shown(run.stdout + run.stderr), end="")
    if run.returncode:
        raise RuntimeError(f"{line} exited with status {run.returncode}")


def script(path: str, promise: Outcome, *, n: int = 2) -> Verdict:
    """Run the scene of `repro/crash.py` or `fixed/crash.py` on the real engine, in a child. The current phase is shown
    while the scene runs. Then the verdict is printed and returned. Raises AssertionError if the promise is not kept.

    The first call starts a host, which imports sglang. Each later call in the same kernel takes about three seconds.
    """
    verdict = _ran(path, Namespace(n=n), engine.SAYS)
    print(transcript.shown(report.text(verdict, promise)), end="")
    assert verdict.keeps(promise), f"{path} promised {promise!r}"
    return verdict


def server(
    path: str, promise: Outcome, *, clients: int = 4, replicas: int = 1, log: Path | None = None, **more: Any
) -> Verdict:
    """As `script`, for `repro/server.py` or `fixed/server.py`. The verdict's events hold what the clients saw. `log` is
    a file that keeps what sglang prints. `more` are further arguments of the scene."""
    from repro.lab.server import account, command
    from repro.lab.server import report as server_report

    verdict = _ran(path, Namespace(n=2, clients=clients, replicas=replicas, **more), command.SAYS, log)
    print(transcript.shown(server_report.text(verdict, promise)), end="")
    assert account.keeps(verdict, promise), f"{path} promised {promise!r}"
    return verdict


def _ran(path: str, arguments: Namespace, says: Mapping[str, str], log: Path | None = None) -> Verdict:
    """Run a script's scene on this kernel's host, show the current phase, and return the verdict."""
    given = Namespace(image=None, prompt=engine.PROMPT, model=None, device="auto", log=None, **vars(arguments))
    choice = settle(given)

    def live(phase: str) -> None:
        clear_output(wait=True)
        print(f"{says.get(phase, phase)} ...")

    live("import")
    scene = child.load(ROOT / path, "scene")
    environment = engine.environment(given.model, choice.device)
    verdict = launcher.run(scene, given, environment=environment, on=_host(), log=log, on_phase=live)
    clear_output(wait=True)
    if choice.why:
        print(on_the_cpu(choice.why, given.model))
    return verdict


@functools.cache
def _host() -> Host:
    """This kernel's host. It ends with the kernel."""
    host = Host(engine.environment(engine.TINY, engine.CPU))
    atexit.register(host.close)
    return host


@contextlib.contextmanager
def expect(error: type[BaseException]) -> Iterator[None]:
    """A context that must raise `error`. It prints the error in one line. Raises AssertionError if nothing was raised.
    Any other error passes through."""
    try:
        yield
    except error as raised:
        print(f"{type(raised).__name__}: {raised}")
    else:
        raise AssertionError(f"{error.__name__} was expected, and nothing was raised")


def rows(table: list[Mapping[str, Any]]) -> None:
    """Print dictionaries of one kind as an aligned table."""
    heads = list(table[0])
    print("\n".join(aligned([heads, *([row[head] for head in heads] for row in table)])))


def checked(predicted: object, actual: object) -> None:
    """Print whether the reader's prediction was right (None: there is no prediction). `actual` is what the run gave.
    See `prediction.told`."""
    print(prediction.told(predicted, actual))
