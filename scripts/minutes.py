"""How many minutes the notebooks take: the reading is estimated, and the waiting is measured.

`python -m scripts.minutes [04 ...]` executes the notebooks and prints a line for each. The estimate for reading is
WORDS words of text a minute, and LINE seconds for each line of code. This is the pace of an engineer who reads in a
second language; no reader was timed. Waiting is the time of the execution on this machine. Exercises take more time.
"""

from __future__ import annotations

import math
import re
import sys
import time
from pathlib import Path

import nbformat

from repro.lab.terminal import OneLineParser, aligned, command
from scripts.notebooks import CHINESE, FOLDER, chosen, executed, paths

WORDS = 130  # a minute
LINE = 5.0  # seconds
SAYS = re.compile(r"\*\*It\s+takes\*\*\s+(\d+)\s+minutes")


def lessons() -> list[Path]:
    """Return the notebooks 00, 01, ..., without translations and solutions."""
    return [path for path in paths() if path.parent == FOLDER and CHINESE not in path.name]


def reading(path: Path) -> float:
    """Return the estimated minutes of reading, for the text and the lines of code."""
    cells = nbformat.read(path, nbformat.NO_CONVERT).cells
    words = sum(len(cell.source.split()) for cell in cells if cell.cell_type == "markdown")
    lines = sum(bool(line.strip()) for cell in cells if cell.cell_type == "code" for line in cell.source.splitlines())
    return words / WORDS + lines * LINE / 60


def stated(path: Path) -> int:
    """Return the minutes that the notebook's first cell states. Raises ValueError if it states none."""
    found = SAYS.search(nbformat.read(path, nbformat.NO_CONVERT).cells[0].source)
    if not found:
        raise ValueError(f"{path.name} does not say how many minutes it takes")
    return int(found[1])


@command
def main() -> None:
    """Execute, and print the table."""
    parser = OneLineParser(description=__doc__)
    parser.add_argument("only", nargs="*", help="beginnings of names, such as 04")
    rows = [("notebook", "says, min", "reading, min", "waiting, s")]
    for path in chosen(lessons(), parser.parse_args().only):
        began = time.monotonic()
        executed(path)
        rows.append((path.stem, stated(path), math.ceil(reading(path)), round(time.monotonic() - began)))
    print(*aligned(rows, right=slice(1, None)), sep="\n")


if __name__ == "__main__":
    sys.exit(main())
