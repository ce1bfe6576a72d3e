"""What notebooks show: pictures as SVG that needs no kernel, commands with their output, errors that must happen."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from IPython.display import SVG

from repro.lab import picture, transcript
from repro.lab.guard import ROOT
from repro.lab.pipeline import Run


def lanes(run: Run, title: str = "") -> SVG:
    """tokenizer | the kernel's name table | scheduler, for a run."""
    return SVG(picture.lanes(run.events, labels=run.labels, title=title))


def graph(roots: Mapping[str, object], mutated: object = None, title: str = "") -> SVG:
    """Who shares what: requests, `mm_inputs`, `mm_items`, items, features."""
    return SVG(picture.graph(roots, mutated=mutated, title=title))


def command(line: str) -> None:
    """Run a command of this repository (`python repro/crash.py`) and print what it prints, without this machine's
    paths and upstream's source lines. Raises RuntimeError if it does not exit with 0."""
    words = line.removeprefix("python ").split()
    run = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
    print(transcript.shown(run.stdout + run.stderr), end="")
    if run.returncode:
        raise RuntimeError(f"{line} exited with status {run.returncode}")


@contextlib.contextmanager
def expect(error: type[BaseException]) -> Iterator[None]:
    """A context that must raise `error`: prints it in one line. Raises AssertionError if nothing is raised; any other
    error passes through."""
    try:
        yield
    except error as raised:
        print(f"{type(raised).__name__}: {raised}")
    else:
        raise AssertionError(f"{error.__name__} was expected, and nothing was raised")


def rows(table: list[Mapping[str, Any]]) -> None:
    """Print dictionaries of one kind as an aligned table."""
    heads = list(table[0])
    texts = [[str(row[head]) for head in heads] for row in table]
    widths = [max(map(len, column)) for column in zip(heads, *texts, strict=True)]
    for line in ([*heads], *texts):
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
