"""`python -m fixed.exercises`: watch one file, and grade it at each save. Ctrl-C ends it."""

from __future__ import annotations

import os
import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path

from fixed.exercises import EXERCISES
from fixed.exercises.exercise import BAD_FILE, Exercise
from fixed.exercises.judge import Judge
from repro.lab.places import ROOT
from repro.lab.refused import Refused
from repro.lab.terminal import OneLineParser, command

FOLDER = ROOT / "exercises"  # git ignores it
PAUSE = 0.2  # seconds between two looks at the file
Seen = tuple[int, int, int]  # inode, time of the last change, size


@command(name="fixed.exercises")
def main(words: Sequence[str] | None = None) -> int:
    """Return the exit status. With --once, 0: passed; 1: not yet; 2: a bad file, or bad usage; 130: interrupted.
    Without --once, 0 after Ctrl-C."""
    arguments = parse(words)
    exercise = EXERCISES[arguments.exercise]
    try:
        return once(exercise, arguments.once) if arguments.once else watch(exercise)
    except KeyboardInterrupt:
        return 130 if arguments.once else 0


def once(exercise: Exercise, path: Path) -> int:
    """Grade the file once, print the grade, and return the exit status."""
    judge = Judge(exercise)
    try:
        told = judge.grade(path)
    finally:
        judge.close()
    print(told.text, file=sys.stderr if told.status == BAD_FILE else sys.stdout)
    return told.status


def watch(exercise: Exercise) -> int:
    """Grade the reader's file now, and after each save. Raises KeyboardInterrupt at Ctrl-C."""
    path = begun(exercise)
    shown = os.path.relpath(path)
    print(f"edit and save {shown} (notebook {exercise.notebook}); Ctrl-C ends", flush=True)
    judge = Judge(exercise)
    try:
        for _ in saves(path):
            told = judge.grade(path)
            print(f"\n{told.text.replace(str(path), shown)}", flush=True)
            judge = Judge(exercise)
    finally:
        judge.close()
    return 0


def begun(exercise: Exercise) -> Path:
    """Return the path of the reader's file. At the first start, the file is made from the template. It is never written
    again. Raises Refused if the file cannot be made."""
    path = FOLDER / f"{exercise.name}.py"
    try:
        FOLDER.mkdir(exist_ok=True)
        with open(path, "x", encoding="utf-8") as file:
            file.write(exercise.template)
    except FileExistsError:
        pass
    except OSError as error:
        raise Refused(f"cannot make {path} ({error.strerror})", "give another file with --once FILE") from None
    return path


def saves(path: Path) -> Iterator[Seen]:
    """Yield once for the file as it is now, and then once for each save. A file counts as saved when it is the same at
    two looks. So an editor that renames the file, or writes it in two pieces, saves once."""
    graded = None
    while True:
        now = seen(path)
        time.sleep(PAUSE)
        if now and now != graded and now == seen(path):
            graded = now
            yield now


def seen(path: Path) -> Seen | None:
    """Return the numbers by which one save differs from the next, or None while there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def parse(words: Sequence[str] | None) -> Namespace:
    """Return the parsed command line. Raises Refused for bad usage."""
    parser = OneLineParser(prog="python -m fixed.exercises", description=__doc__)
    told = ", ".join(f"{name} (notebook {exercise.notebook})" for name, exercise in EXERCISES.items())
    parser.add_argument("exercise", nargs="?", choices=EXERCISES, default="fix", help=f"{told}; default: fix")
    parser.add_argument("--once", type=Path, metavar="FILE", help="grade this file once, and leave")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
