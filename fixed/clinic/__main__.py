"""`python -m fixed.clinic`: one battery examines every design and every mutant, and each one's cost is measured."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from fixed.clinic import chart, goals, growth, measured, speed, speed_goals, speed_table, table
from fixed.clinic.measure import NS, SIZES, Row
from fixed.designs import DESIGNS, ONE_SEGMENT, WARM_SEGMENTS
from repro.lab.lifted.request import bytes_of
from repro.lab.machine import preflight
from repro.lab.terminal import OneLineParser, command, count, progress


@command(name="fixed.clinic")
def main() -> int:
    """Return the exit status. 0: the designs are right, and every mutant is caught. 1: they are not. 2: bad usage or a
    missing part. 130: interrupted."""
    try:
        arguments = parse()
        preflight.require_linux()
        preflight.require_parts()
        require_room(max(arguments.n), max(arguments.size))
        return examine(arguments)
    except KeyboardInterrupt:
        return 130


def examine(arguments: Namespace) -> int:
    """Measure and print. Return 0 if every design is right and every mutant is caught, else 1."""
    with progress(sys.stderr) as shown:
        rows = measured(arguments.n, arguments.size, thorough=not arguments.quick, on_phase=shown.phase)
        told = [] if arguments.json else list(in_words(rows, arguments, shown.phase))
    print(json.dumps([row.as_dict() for row in rows], indent=2) if arguments.json else "\n".join(told))
    if arguments.chart:
        arguments.chart.write_text(chart(rows), encoding="utf-8")
    designs = {design.name for design in DESIGNS}
    return int(any(row.health.correct is not (row.design.name in designs) for row in rows))


def in_words(rows: Sequence[Row], arguments: Namespace, on_phase: Callable[[str], None]) -> Iterator[str]:
    """Yield all tables, and the goals of the two designs that have goals, as text. Measures what `rows` do not hold:
    the growth with n, and the speed of warm segments. `on_phase` is told what is being measured."""
    yield table(rows)
    on_phase("growth with n")
    grown = growth(ONE_SEGMENT, min(arguments.size))
    yield from ("", f"{ONE_SEGMENT.name} against its goals", *goals(rows, grown))
    speeds = []
    for size, n in speed.cases(arguments.n, arguments.size):
        on_phase(f"{WARM_SEGMENTS.name} in turns: n = {n}, {size} x {size}")
        speeds.append(speed.measured(size, n))
    yield from ("", speed_table(speeds), "", f"{WARM_SEGMENTS.name} against its goals", *speed_goals(speeds))


def require_room(n: int, size: int) -> None:
    """Raise Refused unless /dev/shm has room for n + 1 features. The most expensive designs need that much."""
    feature = bytes_of(size)
    way_out = f"give smaller --n or --size than {n} and {size}, such as --n 2 8 --size 224"
    preflight.require_room(4 * feature, feature * (n + 1), way_out)


def parse() -> Namespace:
    """Return the parsed command line. Raises Refused for bad usage."""
    parser = OneLineParser(prog="python -m fixed.clinic", description=__doc__)
    parser.add_argument("--n", type=count, nargs="+", default=NS, help="how many samples (default: 2 8 32)")
    parser.add_argument("--size", type=count, nargs="+", default=SIZES, metavar="PIXELS", help="an image's side")
    parser.add_argument("--json", action="store_true", help="print a list of rows and nothing else")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="draw time and peak against n, as SVG")
    parser.add_argument(
        "--quick", action="store_true", help="do not kill servers to count their names, and try no small /dev/shm"
    )
    arguments = parser.parse_args()
    if arguments.chart:
        arguments.chart = preflight.whole(arguments.chart, "--chart")
        preflight.require_writable(arguments.chart, "--chart")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
