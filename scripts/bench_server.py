"""A server under load, as released and with each fix: which clients are answered, and how long they wait.

`python -m scripts.bench_server [--requests N] [--at-once N] [--side PIXELS] [--quick] [--only SERVER ...]`.
Half of the requests have an image, n goes from 1 to 8, and one client in ten leaves in mid-answer.

The rows. `lost` counts answers that did not come whole. `wrong` counts answers with a wrong sample: at temperature 0,
the same question alone got another text. `blocked` is the longest time for which the event loop of the tokenizer's
process was blocked; a heartbeat in this loop asks for its turn every millisecond. `all blocks` is the sum of all such
times over 5 ms. `gap` is the time between two tokens of one sample, for the clients without an image.
`names, still served` is the number of names in /dev/shm after the last answer, when the server still runs: a design may
keep some for the next request.

The columns. The released server dies of the first image with n > 1. So the first column shows the released server while
all clients ask for one sample. `detach` is upstream's fix. The other columns are designs of this kit, as the plugin
brings them into a server.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fixed import install
from fixed.designs import ONE_SEGMENT, PURE_WRAP, SEGMENT_PER_PICKLE, WARM_SEGMENTS
from repro.lab import engine
from repro.lab.engine import launcher
from repro.lab.engine.host import Host
from repro.lab.evidence.recorder import note
from repro.lab.evidence.verdict import Verdict
from repro.lab.terminal import OneLineParser, aligned, command, count
from scripts.server_load import MOST, Load

RELEASED, ONE = "released", "released, n = 1"
DETACH = "detach"
PLUGGED = tuple(design.name for design in (PURE_WRAP, SEGMENT_PER_PICKLE, ONE_SEGMENT, WARM_SEGMENTS))
SIDES = (ONE, RELEASED, DETACH, *PLUGGED)
SWITCH = "SGLANG_SHM_HOTFIX"  # environment variable: which design the plugin brings
BEAT = 0.001  # seconds between two beats
WORTH_A_NOTE = 0.005  # seconds: a shorter delay of the loop is not noted
LIMITS = {"boot": 300.0, "generate": 1500.0}  # seconds
QUICK = 32  # requests
WAITS = "blocked, ms", "all blocks, ms", "gap p50, ms", "gap p99, ms"


def loaded(arguments: Namespace) -> None:
    """A scene, for `launcher.run`: sglang's server with a fix or without one, a heartbeat in its event loop, and the
    load's clients."""
    from repro.lab.server import boot

    if arguments.fix in PLUGGED:
        os.environ[SWITCH] = arguments.fix
        install.hotfix()
    elif arguments.fix == DETACH:
        install.FIXES[DETACH]()
    beat_in_uvicorn()
    with boot.held_port() as held:
        size = arguments.requests, arguments.at_once, arguments.side, 1 if arguments.fix == ONE else MOST
        load = Load(held.getsockname()[1], os.getpid(), *size)
        file = Path(tempfile.gettempdir(), "load.json")
        file.write_text(json.dumps(asdict(load)), encoding="utf-8")
        subprocess.run([sys.executable, "-m", "scripts.server_load", str(file)], check=True)  # it detaches itself
        boot.boot(engine.TINY, engine.CPU.name, load.port)


def beat_in_uvicorn() -> None:
    """From now on, the event loop in which uvicorn serves has a heartbeat. sglang's tokenizer works in that loop."""
    import uvicorn

    original = uvicorn.Server.serve

    async def serve(server: uvicorn.Server, *arguments: Any, **named: Any) -> None:
        beating = asyncio.create_task(beat())
        try:
            await original(server, *arguments, **named)
        finally:
            beating.cancel()

    uvicorn.Server.serve = serve


async def beat() -> None:
    """Note each time that the loop gives the heartbeat its turn too late. Each note is written at once, because a
    server that is killed would lose notes that wait."""
    while True:
        asked = time.monotonic()
        await asyncio.sleep(BEAT)
        late = time.monotonic() - asked - BEAT
        if late > WORTH_A_NOTE:
            note("late", seconds=late)


def measure(fix: str, options: Namespace, host: Host) -> dict[str, Any]:
    """Run one server under the load, and return the results: for each row of the table, its number. Raises
    RuntimeError if the load was not sent."""
    given = Namespace(fix=fix, requests=options.requests, at_once=options.at_once, side=options.side)
    environment = engine.environment(engine.TINY, engine.CPU)
    verdict = launcher.run(loaded, given, environment=environment, on=host, limits=LIMITS, log=options.log)
    return measured(verdict, options.requests)


def measured(verdict: Verdict, requests: int) -> dict[str, Any]:
    """Return the results from one run's record. Raises RuntimeError if the load was not sent."""
    of: dict[str, list[dict[str, Any]]] = {}
    for event in verdict.events:
        of.setdefault(event["what"], []).append(event)
    if len(of.get("load", [])) != 2:
        raise RuntimeError(f"the load was not sent: {verdict.outcome}, {verdict.error} {verdict.message}")
    began, over = (event["at"] for event in of["load"])
    stayed = [asked for asked in of["asked"] if not asked["leaves"]]
    gaps = sorted(gap for asked in of["asked"] if not asked["image"] for gap in asked["gaps"])
    late = [event["seconds"] for event in of.get("late", []) if began <= event["at"] <= over]
    memory = {event["when"]: sum(event["bytes"]) / 2**20 for event in of["memory"]}
    return {
        "server": verdict.outcome,
        "sent": requests,
        "whole": sum(asked["whole"] for asked in stayed),
        "went by themselves": sum(asked["leaves"] and not asked["error"] for asked in of["asked"]),
        "lost": sum(bool(asked["error"]) if asked["leaves"] else not asked["whole"] for asked in of["asked"]),
        "wrong": sum(asked["wrong"] for asked in of["asked"]),
        "names, still served": len(of["names"][0]["left"]),
        "names left at the end": len([name for name in verdict.leftovers.segments if not name.startswith("sem.")]),
        "MiB, start": memory["start"],
        "MiB, half": memory.get("half", 0.0),
        "MiB, end": memory["end"],
        "seconds": over - began,
        "blocked, ms": 1e3 * max(late, default=0.0),
        "all blocks, ms": 1e3 * sum(late),
        "gap p50, ms": 1e3 * quantile(gaps, 0.50),
        "gap p99, ms": 1e3 * quantile(gaps, 0.99),
    }


def quantile(values: list[float], part: float) -> float:
    """Return the value below which a `part` (0 to 1) of the sorted `values` lies, or nan if there are no values."""
    return values[min(len(values) - 1, int(part * len(values)))] if values else float("nan")


def table(told: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Yield the table's lines: a row for each number, and a column for each server. The last rows are the waits, as
    ratios to the waits with upstream's fix."""
    yield from aligned([("", *told), *_rows(told)], right=slice(1, None))


def _rows(told: dict[str, dict[str, Any]]) -> Iterator[list[str]]:
    for name, first in next(iter(told.values())).items():
        yield [name, *(f"{each[name]:.1f}" if isinstance(first, float) else str(each[name]) for each in told.values())]
    ends = [(each["MiB, half"], each["MiB, end"]) for each in told.values()]
    yield ["MiB, end / half", *(f"{end / half:.2f}" if end and half else "-" for half, end in ends)]
    for name in WAITS if DETACH in told else ():
        yield [f"{name.removesuffix(', ms')}, over {DETACH}", *_over(told, name)]


def _over(told: dict[str, dict[str, Any]], name: str) -> Iterator[str]:
    base = told[DETACH][name]
    yield from (f"{each[name] / base:.2f}" if base and each["whole"] else "-" for each in told.values())


@command
def main() -> None:
    """Measure and print."""
    parser = OneLineParser(description=__doc__)
    parser.add_argument("--requests", type=count, default=200, help="default: %(default)s")
    parser.add_argument("--at-once", type=count, default=16, help="default: %(default)s")
    parser.add_argument("--side", type=count, default=448, help="of the images, in pixels (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} requests")
    parser.add_argument("--only", nargs="+", choices=SIDES, default=SIDES, metavar="SERVER", help=f"some of: {SIDES}")
    parser.add_argument("--log", type=Path, help="keep what the last server prints")
    options = parser.parse_args()
    options.requests = QUICK if options.quick else options.requests
    told = {}
    with Host(engine.environment(engine.TINY, engine.CPU)) as host:
        for fix in options.only:
            told[fix] = measure(fix, options, host)
            print(f"{fix}: {told[fix]['seconds']:.0f} s", file=sys.stderr, flush=True)
    print(*table(told), sep="\n")


if __name__ == "__main__":
    sys.exit(main())
