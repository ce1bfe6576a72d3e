"""What all commands of the kit need at a terminal: options, tables, and the progress of a long run."""

from __future__ import annotations

import argparse
import functools
import os
import select
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TextIO

from repro.lab.refused import Refused


class OneLineParser(argparse.ArgumentParser):
    """A parser that raises Refused, in one line. argparse would print its usage and exit."""

    def error(self, message: str) -> NoReturn:
        raise Refused(f"{message}; see --help")

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        """As argparse does it. But `--option=--` is refused: argparse would take it for an empty list."""
        for word in sys.argv[1:] if args is None else args:
            if word.startswith("--") and word.endswith("=--"):
                self.error(f"argument {word[:-3]}: '--' is not valid")
        return super().parse_args(args, namespace)


def command(main: Callable[..., int | None] | None = None, *, name: str = "") -> Callable[..., Any]:
    """A decorator for the main function of a command. The command then works with a closed standard stream (`2>&-`).
    When the reader of its output has gone (`| head -1`), it ends silently, with the status of SIGPIPE. A Refused that
    the function raises becomes one line on stderr, and the status is 2. The line begins with `name`, or with the name
    of the script."""
    if main is None:
        return functools.partial(command, name=name)

    @functools.wraps(main)
    def run(*arguments: Any, **named: Any) -> int | None:
        _open_what_is_closed()
        try:
            status = main(*arguments, **named)
            sys.stdout.flush()
        except Refused as refusal:
            print(f"{name or Path(sys.argv[0]).name}: {refusal}", file=sys.stderr)
            return 2
        except BrokenPipeError:
            if not _nobody_reads(1):
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the rest of the buffer is written there
            return 141
        return status

    return run


def _open_what_is_closed() -> None:
    """Open each closed standard stream. Otherwise the next file that is opened would become this stream."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            nothing = os.open(os.devnull, os.O_RDWR)
            if nothing != number:
                os.dup2(nothing, number, inheritable=True)
                os.close(nothing)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115


def _nobody_reads(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(state & select.POLLERR for _, state in poll.poll(0))


def count(text: str) -> int:
    """For argparse: a whole number of 1 or more."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not valid: give a whole number of 1 or more")
    return value


def aligned(rows: Sequence[Sequence[object]], *, right: slice = slice(0, 0)) -> Iterator[str]:
    """Each row as one line. A column is as wide as its widest cell. The columns in the slice `right` are
    right-aligned."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    to_the_right = range(len(widths))[right]
    for row in texts:
        cells = [
            cell.rjust(width) if place in to_the_right else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


class Progress:
    """The progress of a long run. `phase(name)` shows the text in `says` for this phase, and the time since the start.
    See `progress`."""

    def __init__(self, shown: Any, says: Mapping[str, str]) -> None:
        self.shown, self.says = shown, says
        self.task = shown.add_task("starting") if shown else None

    def phase(self, name: str) -> None:
        """Show that the run has reached this phase."""
        if self.shown:
            self.shown.update(self.task, description=self.says.get(name, name))


@contextmanager
def progress(stream: TextIO, says: Mapping[str, str] | None = None) -> Iterator[Progress]:
    """A context that shows the phase of the run on a terminal, in one line that is removed at the end. In a pipe, it
    shows nothing."""
    if not stream.isatty():
        yield Progress(None, says or {})
        return
    from rich.console import Console
    from rich.progress import Progress as Shown
    from rich.progress import TextColumn, TimeElapsedColumn

    columns = TimeElapsedColumn(), TextColumn("{task.description} ...", markup=False)
    with Shown(*columns, console=Console(file=stream), transient=True) as shown:
        yield Progress(shown, says or {})
