"""`python -m fixed.clinic.speed`: warm segments beside a release, beside design 5 and beside one copy in memory.

All of them are measured in turns, in one run, so that a noisy machine disturbs each alike. Each figure is the best of
the rounds: noise only adds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fixed.designs import ONE_SEGMENT, WARM_SEGMENTS, warm_segments
from repro.lab.lifted import make_request, run
from repro.lab.lifted.request import shape_of
from repro.lab.releases import NEWEST
from repro.lab.terminal import aligned

CASES = ((224, 1), (224, 2), (1536, 1), (1536, 2), (1536, 8), (1536, 32))  # an image's side, n
TIMEOUT = 120.0


@dataclass(frozen=True)
class Speed:
    """Milliseconds for which all sends of one image with n samples held the event loop: as released, with design 5,
    with warm segments, and with warm segments when the pool was empty (`cold`); and those of one copy in memory."""

    size: int
    n: int
    released: float
    one_segment: float
    cold: float
    warm: float
    memcpy: float


def measured(size: int, n: int, release: str = NEWEST, rounds: int = 6) -> Speed:
    """The speed of one image of `size` x `size` pixels with n samples. Raises RuntimeError if an answer was wrong."""
    request = make_request(shape=shape_of(size))
    feature = request.mm_inputs.mm_items[0].feature
    target = feature.clone()
    best: dict[str, float] = {}
    for number in range(rounds):
        warm_segments.POOL.drain()
        for name, fix in (("cold", WARM_SEGMENTS), ("warm", WARM_SEGMENTS), ("one_segment", ONE_SEGMENT)):
            for _ in range(3 if name == "warm" else 1):
                best[name] = min(best.get(name, 1e9), _dispatch(request, feature, n, release, fix))
                best["memcpy"] = min(best.get("memcpy", 1e9), _copy(target, feature))
        if number < 2:  # it takes long, and is not what is close
            best["released"] = min(best.get("released", 1e9), _dispatch(request, feature, n, release, None))
    warm_segments.POOL.drain()
    return Speed(size, n, **best)


def _dispatch(request: Any, feature: Any, n: int, release: str, fix: Any) -> float:
    result = run(request, n=n, release=release, fix=fix, timeout=TIMEOUT)
    request.mm_inputs.mm_items[0].feature = feature  # a release may leave a pointer there
    if len(result.verdict.answers or []) != n or not all(send.intact for send in result.sends):
        raise RuntimeError(f"{result!r}: {result.faults()}")
    return 1e3 * sum(send.seconds for send in result.sends)


def _copy(target: Any, feature: Any) -> float:
    began = time.perf_counter()
    target.copy_(feature)
    return 1e3 * (time.perf_counter() - began)


def table(speeds: list[Speed]) -> Iterator[str]:
    """The speeds, and warm segments' as ratios: a line each."""
    lines = [("size", "n", "released ms", "design 5", "cold pool", "warm", "memcpy", "warm/memcpy", "warm/released")]
    for each in speeds:
        figures = (each.released, each.one_segment, each.cold, each.warm, each.memcpy, each.warm / each.memcpy)
        ratio = f"1/{each.released / each.warm:.1f}"
        lines.append((each.size, each.n, *(f"{figure:.2f}" for figure in figures), ratio))
    yield from aligned(lines, right=slice(0, None))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--release", default=NEWEST, help="0.5.13 or later")
    release = parser.parse_args().release
    print(f"sglang {release}, milliseconds of the tokenizer's event loop; memcpy: one copy of the feature in memory")
    print("\n".join(table([measured(size, n, release) for size, n in CASES])))
    print(warm_segments.report())


if __name__ == "__main__":
    main()
