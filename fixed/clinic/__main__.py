"""`python -m fixed.clinic`: every design of the fix, and every mutant, through one battery, and what each costs."""

from __future__ import annotations

import json
import os
import sys
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

from fixed.clinic import chart, goals, growth, measured, table
from fixed.clinic.rows import NS, SIZES
from fixed.designs import DESIGNS, ONE_SEGMENT
from repro.lab.engine.command import OneLineParser, count
from repro.lab.evidence.inotify import SHM
from repro.lab.evidence.verdict import Refused
from repro.lab.lifted.request import shape_of
from repro.lab.machine import preflight
from repro.lab.progress import Progress


def main() -> int:
    """0: the designs are right and the mutants are caught. 1: not so. 2: bad usage or a missing part."""
    try:
        arguments = parse()
        preflight.require_linux()
        preflight.require_parts()
        require_room(max(arguments.n), max(arguments.size))
        return examine(arguments)
    except Refused as refusal:
        print(f"fixed.clinic: {refusal}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def examine(arguments: Namespace) -> int:
    """Measure, print, and say by the exit status whether all is as it should be."""
    with Progress(sys.stderr) as progress:
        rows = measured(arguments.n, arguments.size, thorough=not arguments.quick, on_phase=progress.phase)
        progress.phase("growth with n")
        reached = [] if arguments.json else goals(rows, growth(ONE_SEGMENT, min(arguments.size)))
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        print(table(rows))
        print("\n".join(["", "one_segment_many_names against its goals", *reached]))
    if arguments.chart:
        arguments.chart.write_text(chart(rows))
    designs = {design.name for design in DESIGNS}
    return int(any(row.correct is not (row.design in designs) for row in rows))


def require_room(n: int, size: int) -> None:
    """Raise Refused unless /dev/shm has room for a feature for every send: that is what the dearest designs may take,
    and Linux ends with SIGBUS who writes beyond it."""
    patches, values = shape_of(size)
    needed, room = 4 * patches * values * (n + 1), os.statvfs(SHM)
    if needed > (free := room.f_bavail * room.f_frsize):
        raise Refused(
            f"n = {n} with {size} x {size} pixels may take {needed / 1e6:,.0f} MB of {SHM}, where {free / 1e6:,.0f} MB "
            "are free: give smaller --n or --size, such as --n 2 8 --size 224"
        )


def parse() -> Namespace:
    """The command line. Raises Refused, in one line, where argparse would print its usage."""
    parser = OneLineParser(prog="python -m fixed.clinic", description=__doc__)
    parser.add_argument("--n", type=count, nargs="+", default=NS, help="how many samples (default: 2 8 32)")
    parser.add_argument("--size", type=count, nargs="+", default=SIZES, metavar="PIXELS", help="an image's side")
    parser.add_argument("--json", action="store_true", help="print a list of rows and nothing else")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="draw time and peak against n, as SVG")
    parser.add_argument(
        "--quick", action="store_true", help="leave out what is left of killed servers, and the small /dev/shm"
    )
    arguments = parser.parse_args()
    if arguments.chart:
        preflight.require_writable(arguments.chart, "--chart")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
