"""The speed of warm segments, compared with one memcpy, with the newest release, and with design 5
(`one_segment_many_names`).

All of them are measured in turns, in one process: in each round, every way sends the same image once, and the feature
is copied once in memory. A ratio is the median of the rounds' ratios. So a noisy machine disturbs both sides of a ratio
alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from fixed.clinic.prices import memcpy
from fixed.clinic.tables import dispatch, goal
from fixed.designs import ONE_SEGMENT, WARM_SEGMENTS, Design
from repro.lab.lifted import make_request, run
from repro.lab.lifted.request import bytes_of, shape_of
from repro.lab.releases import NEWEST
from repro.lab.terminal import aligned

TIMEOUT = 120.0
SMALL = 4 << 20  # bytes: a request with a feature up to this size is small, and the copy is not its main cost
MANY, FEW = 11, 9  # rounds for a small request, and for a larger one
WAYS = ("released", "one_segment", "cold", "warm")
RATIOS = ("warm/memcpy", "warm/released", "cold/one_segment")


@dataclass
class Speed:
    """The speed with one image of `size` x `size` pixels and n samples. `milliseconds` has, for each way, one number a
    round: how long all sends held the event loop. The ways are `released`, `one_segment` (design 5), and warm segments
    with an empty pool (`cold`) and with a filled pool (`warm`). `memcpy`, one copy of the feature in memory, is
    measured before each `warm`."""

    size: int
    n: int
    milliseconds: dict[str, list[float]] = field(default_factory=lambda: {way: [] for way in (*WAYS, "memcpy")})

    def median(self, way: str) -> float:
        """The median of the milliseconds of one way."""
        return median(self.milliseconds[way])

    def ratio(self, pair: str) -> float:
        """The median of the rounds' ratios; `pair` is one of RATIOS."""
        above, below = (self.milliseconds[way] for way in pair.split("/"))
        return median(one / other for one, other in zip(above, below, strict=True))


def cases(ns: Sequence[int], sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Return the cases to measure, as (size, n): the smallest image with n = 1 and n = 2, and the largest image with
    n = 1 and the largest n."""
    return list(dict.fromkeys([(min(sizes), 1), (min(sizes), 2), (max(sizes), 1), (max(sizes), max(ns))]))


def measured(size: int, n: int, release: str = NEWEST, rounds: int = 0) -> Speed:
    """Measure and return the speed with one image of `size` x `size` pixels and n samples. Without `rounds`, there are
    MANY or FEW. Raises RuntimeError if an answer was wrong, and Refused if the release is not available."""
    request = make_request(shape=shape_of(size))
    feature = request.mm_inputs.mm_items[0].feature
    target = feature.clone()
    speed = Speed(size, n)

    def timed(way: str, fix: Design | None) -> None:
        speed.milliseconds.setdefault(way, []).append(_dispatch(request, feature, n, release, fix))

    for number in range(rounds or (MANY if feature.nbytes <= SMALL else FEW)):
        for way, fix in (("cold", WARM_SEGMENTS), ("one_segment", ONE_SEGMENT))[:: (-1) ** number]:
            WARM_SEGMENTS.drain()
            timed(way, fix)
        for _ in range(2):  # the first run fills the segment's pages, and the second one maps them
            _dispatch(request, feature, n, release, WARM_SEGMENTS)
        speed.milliseconds["memcpy"].append(1e3 * memcpy(target, feature))
        timed("warm", WARM_SEGMENTS)
        timed("released", None)
    WARM_SEGMENTS.drain()
    return speed


def _dispatch(request: Any, feature: Any, n: int, release: str, fix: Design | None) -> float:
    result = run(request, n=n, release=release, fix=fix, timeout=TIMEOUT)
    request.mm_inputs.mm_items[0].feature = feature  # a release may leave a pointer there
    if len(result.verdict.answers or []) != n or not all(send.intact for send in result.sends):
        raise RuntimeError(f"{result!r}: {result.faults()}")
    return 1e3 * sum(send.seconds for send in result.sends)


def speed_table(speeds: Sequence[Speed]) -> str:
    """Return the medians in milliseconds as a table, a line for each image and n."""
    return "\n".join(_lines(speeds))


def _lines(speeds: Sequence[Speed]) -> Iterator[str]:
    lines = [("size", "n", "as released", "design 5", "cold pool", "warm", "memcpy")]
    for each in speeds:
        lines.append((each.size, each.n, *(f"{each.median(way):.2f}" for way in (*WAYS, "memcpy"))))
    yield from aligned(lines, right=slice(0, None))
    yield f"sglang {NEWEST}: milliseconds for which all sends of one image hold the event loop, medians."


def speed_goals(speeds: Sequence[Speed]) -> list[str]:
    """Return a line for each goal of warm segments, which says whether the goal was reached."""
    return [line for each in speeds for line in _goals(each)]


def _goals(each: Speed) -> Iterator[str]:
    what = dispatch((each.n, each.size))
    over_memcpy, over_released, over_one_segment = map(each.ratio, RATIOS)
    if bytes_of(each.size) <= SMALL:
        yield goal(what, f"{over_released:.2f} of the release's", "at most 1", over_released <= 1)
    else:
        parts = 5 if each.n == 1 else 200
        yield goal(what, f"{over_memcpy:.2f} of a memcpy", "at most 1.3", over_memcpy <= 1.3)
        yield goal(
            what, f"1/{1 / over_released:.0f} of the release's", f"at most 1/{parts}", parts * over_released <= 1
        )
    first = f"the pool is empty, {what.removeprefix('dispatch, ')}"
    yield goal(first, f"{over_one_segment:.2f} of design 5's", "at most 1", over_one_segment <= 1)
