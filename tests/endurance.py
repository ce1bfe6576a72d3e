"""`python -m tests.endurance N SEED`: N requests with design 5. For one in ten, the scheduler is killed. Prints as JSON
the faults, and the descriptors and the memory before and after. Sweeps nothing, because the design itself must clean
up."""

from __future__ import annotations

import gc
import json
import os
import random
import sys

import psutil

from fixed.designs import ONE_SEGMENT
from repro.lab.lifted import Fault, Run, make_request, run
from repro.lab.lifted.fault import MOMENTS

SHAPES = ((4, 8), (16, 1176), (64, 1176))
N = 8


def one(number: int, dice: random.Random) -> tuple[bool, list[str]]:
    """Run one request. Returns whether the scheduler had to be killed, and the faults."""
    killed = number % 10 == 9
    moment, send = dice.choice(MOMENTS["kill"]), dice.randrange(N + 1)
    send = 0 if moment == "create" else send  # all names are made for the first send
    fault = Fault("kill", at=moment, send=send) if killed else None
    request = make_request(dice.choice(("tensor", "list")), shape=dice.choice(SHAPES), items=dice.choice((1, 2)))
    return killed, wrong(number, run(request, n=N, fault=fault, sweep=False, fix=ONE_SEGMENT), killed)


def wrong(number: int, result: Run, killed: bool) -> list[str]:
    """The faults of a run. For a killed run: any other death than this one, and names that were never sent."""
    if not killed:
        return [f"{number}: {fault}" for fault in result.faults()]
    sent = {name for send in result.sends for name in send.names if send.gone}
    strays = set(result.verdict.leftovers.segments) - sent
    deaths = [] if result.verdict.error == "scheduler killed by SIGKILL" else [f"{number}: {result!r}"]
    return deaths + [f"{number}: {name} is left, and was never sent" for name in strays]


def state() -> tuple[int, float]:
    """Open descriptors and megabytes of this process."""
    gc.collect()
    return len(os.listdir("/proc/self/fd")), psutil.Process().memory_info().rss / 1e6


def main() -> None:
    """Warm up, run, print."""
    count, dice = int(sys.argv[1]), random.Random(int(sys.argv[2]))
    for number in range(40):
        one(number, dice)
    before = state()
    outcomes = [one(number, dice) for number in range(count)]
    after = state()
    print(
        json.dumps(
            {
                "requests": count,
                "killed": sum(killed for killed, _ in outcomes),
                "wrong": [fault for _, faults in outcomes for fault in faults],
                "descriptors": [before[0], after[0]],
                "megabytes": [before[1], after[1]],
            }
        )
    )


if __name__ == "__main__":
    main()
