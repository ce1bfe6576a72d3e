"""The clinic's chart: time and peak against n, on logarithmic scales, as one SVG. Grey lines show the floor and a fresh
segment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

from fixed.clinic.measure import Row
from repro.lab.pictures.svg import EDGE, PALE, SOFT, document, stroke, text

WIDTH, HEIGHT, LEFT, RIGHT, TOP = 200, 230, 52, 200, 40  # pixels: a panel and its margins
FLOOR = "#b8b8b8"
DASHES = ("", "7 4", "2 3", "9 3 2 3", "", "4 2", "12 3")
MARKS = (
    *("M-4 -4h8v8h-8z", "M0 -5l5 9h-10z", "M-5 0l5 -5l5 5l-5 5z"),
    *("M-5 -3h10M-5 3h10", "M-6 0h12M0 -6v12", "M-4 -4l8 8m0 -8l-8 8"),
    "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0 -10 0z",
)


@dataclass(frozen=True)
class Scale:
    """A logarithmic axis. The values from `low` to `high` lie at the pixels from `begin` to `end`."""

    low: float
    high: float
    begin: float
    end: float

    def at(self, value: float) -> float:
        """Return the pixel of a value. A value below `low` lies at `begin`."""
        span = log10(self.high) - log10(self.low)
        return self.begin + (self.end - self.begin) * (log10(max(value, self.low)) - log10(self.low)) / span


def chart(rows: Sequence[Row], size: int | None = None) -> str:
    """Return an SVG document with two panels for the images of `size` x `size` pixels (default: the largest size).
    Left: how many milliseconds the sends hold the event loop. Right: the most megabytes in /dev/shm at a time. Raises
    ValueError if no row has a price."""
    priced = [row for row in rows if row.price]
    if not priced:
        raise ValueError("nothing to draw: no row has a price")
    size = size or max(row.size for row in priced)
    priced = sorted((row for row in priced if row.size == size), key=lambda row: row.n)
    floor_ms, fresh_ms = (min(getattr(row.price, name) for row in priced) for name in ("floor_ms", "fresh_ms"))
    feature = priced[0].price.feature_bytes / 1e6
    fastest = {"floor: one memcpy": floor_ms, "a fresh segment": fresh_ms}
    time = {name: [(row.n, row.price.dispatch_ms) for row in line] for name, line in _lines(priced)}
    room = {name: [(row.n, row.price.shm_peak_bytes / 1e6) for row in line] for name, line in _lines(priced)}
    second = LEFT + WIDTH + RIGHT
    body = [
        *_panel(0, "event loop held, ms (all sends)", time, fastest),
        *_panel(second, "most in /dev/shm, MB", room, {"floor: one feature": feature}),
    ]
    told = "; ".join(
        f"{row.design.name}, n = {row.n}: {row.price.dispatch_ms:.1f} ms, {row.price.shm_peak_bytes / 1e6:.1f} MB"
        for row in priced
    )
    described = f"floor: {floor_ms:.1f} ms, {feature:.1f} MB; a fresh segment: {fresh_ms:.1f} ms; {told}"
    title = f"What n samples of one {size} x {size} image cost the tokenizer"
    return document(title, described, 2 * second, TOP + HEIGHT + 48, "\n".join(body))


def _lines(priced: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    for name in dict.fromkeys(row.design.name for row in priced):
        yield name, [row for row in priced if row.design.name == name]


def _panel(
    x: float, title: str, lines: dict[str, list[tuple[float, float]]], levels: dict[str, float]
) -> Iterator[str]:
    """Draw one panel: a frame with powers of ten, a line for each design with the design's name at its end, and
    horizontal `levels` that do not depend on n. The first level is the floor."""
    values = [value for line in lines.values() for _, value in line] + [*levels.values()]
    ns = sorted({n for line in lines.values() for n, _ in line})
    across = Scale(ns[0], max(ns[-1], ns[0] * 2), x + LEFT, x + LEFT + WIDTH)
    up = Scale(10 ** floor(log10(min(values))), 10 ** ceil(log10(max(values))), TOP + HEIGHT, TOP)
    yield text(x + LEFT, TOP - 14, title, weight="bold")
    yield f'<rect x="{x + LEFT}" y="{TOP}" width="{WIDTH}" height="{HEIGHT}" fill="{PALE}"/>'
    for power in range(round(log10(up.low)), round(log10(up.high)) + 1):
        yield stroke(f"M{x + LEFT} {up.at(10**power):.1f}h{WIDTH}", color="#ffffff")
        yield text(x + LEFT - 8, up.at(10**power) + 5, f"{10**power:,g}", anchor="end", size=12, color=SOFT)
    for n in ns:
        yield text(across.at(n), TOP + HEIGHT + 18, str(n), anchor="middle", size=12, color=SOFT)
    yield text(x + LEFT + WIDTH / 2, TOP + HEIGHT + 38, "n", anchor="middle", size=12, color=SOFT)
    for level, width in zip(levels.values(), (7, 2), strict=False):
        yield stroke(f"M{x + LEFT} {up.at(level):.1f}h{WIDTH}", color=FLOOR, width=width)
    for number, line in enumerate(lines.values()):
        points = [(across.at(n), up.at(value)) for n, value in line]
        yield stroke("M" + "L".join(f"{px:.1f} {py:.1f}" for px, py in points), dash=DASHES[number % len(DASHES)])
        for px, py in points:
            mark = stroke(MARKS[number % len(MARKS)], width=1.6)
            yield f'<g transform="translate({px:.1f} {py:.1f})">{mark}</g>'
    ends = {name: up.at(line[-1][1]) for name, line in lines.items()} | {
        name: up.at(level) for name, level in levels.items()
    }
    for name, place, end in _apart(ends):
        yield stroke(f"M{x + LEFT + WIDTH + 4} {end:.1f}L{x + LEFT + WIDTH + 18} {place:.1f}", color=SOFT, width=0.8)
        weight = "bold" if name.startswith("floor") else "normal"
        yield text(x + LEFT + WIDTH + 22, place + 4, name, size=12, weight=weight)


def _apart(ends: dict[str, float], gap: float = 16) -> Iterator[tuple[str, float, float]]:
    """Yield (name, place, end) for each name at the `end` of its line. `place` is moved downwards where two names would
    overlap."""
    last = -gap + EDGE
    for name, end in sorted(ends.items(), key=lambda pair: pair[1]):
        last = max(end, last + gap)
        yield name, last, end
