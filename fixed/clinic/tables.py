"""The rows as tables for a terminal, and the goals of design 5 (`one_segment_many_names`) as ratios."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fixed.clinic.measure import Row
from fixed.clinic.prices import Growth
from fixed.designs import COPIES, ONE_SEGMENT
from repro.lab.terminal import aligned

LARGE, SMALL = (32, 1536), (2, 224)  # n and size that the goals are about
NOTHING = "-"


def table(rows: Sequence[Row]) -> str:
    """Return the health table and the price table, as text."""
    return f"{health_table(rows)}\n\n{price_table(rows)}"


def health_table(rows: Sequence[Row]) -> str:
    """Return a table with a line for each design: whether it is right, which names it leaves, and what it changes."""
    return "\n".join(_health(rows))


def price_table(rows: Sequence[Row]) -> str:
    """Return a table of prices, with a line for each design, n and size that was priced."""
    return "\n".join(_prices(rows))


def _health(rows: Sequence[Row]) -> Iterator[str]:
    situations = list(dict.fromkeys(name for row in rows for name in row.health.leaked))
    lines = [("design", "right", "source", *situations, "64 MB", "lines", "places", "who frees a segment")]
    for row in {row.design.name: row for row in rows}.values():
        right = "crash" if row.health.crashed else "yes" if row.health.correct else "NO"
        kept = "mutated" if row.health.mutates else "kept"
        left = [row.health.leaked.get(name, NOTHING) for name in situations]
        size = row.lines or NOTHING, len(row.design.places)
        lines.append((row.design.name, right, kept, *left, row.small_shm or NOTHING, *size, row.design.owner))
    yield from aligned(lines)
    first, last = situations[0], situations[-1]
    yield f"Columns '{first}' to '{last}': number of names left in /dev/shm. 'lines': lines of code."
    yield "No design changes code that runs in the scheduler."


def _prices(rows: Sequence[Row]) -> Iterator[str]:
    lines = [
        (
            "design",
            "n",
            "size",
            "dispatch ms",
            "of the floor",
            "of a fresh segment",
            "copied MB",
            "peak MB",
            "of a feature",
        )
    ]
    for row in sorted((row for row in rows if row.price), key=lambda row: (row.size, row.n)):
        paid = row.price
        figures = (
            paid.dispatch_ms,
            paid.dispatch_ms / paid.floor_ms,
            paid.dispatch_ms / paid.fresh_ms,
            paid.bytes_copied / 1e6,
            paid.shm_peak_bytes / 1e6,
            paid.shm_peak_bytes / paid.feature_bytes,
        )
        lines.append((row.design.name, row.n, row.size, *(f"{figure:.2f}" for figure in figures)))
    yield from aligned(lines, right=slice(1, None))
    yield "The floor: one memcpy of the feature. A fresh segment: one first write of the feature into one."
    yield "Both are measured beside each run. 'peak MB' counts what a design keeps for the next request, too."


def goals(rows: Sequence[Row], grown: Growth | None = None) -> list[str]:
    """Return a line for each goal of design 5, which says whether the goal was reached. The figures are ratios between
    measurements of this one run. A goal that was not measured is left out."""
    found = {(row.design.name, row.n, row.size): row.price for row in rows if row.price}
    large, large_theirs = (found.get((design.name, *LARGE)) for design in (ONE_SEGMENT, COPIES))
    small, small_theirs = (found.get((design.name, *SMALL)) for design in (ONE_SEGMENT, COPIES))
    ours = [paid for (name, *_), paid in found.items() if name == ONE_SEGMENT.name]
    lines = []
    if large:
        ratio = large.dispatch_ms / large.fresh_ms
        lines.append(goal(dispatch(LARGE), f"{ratio:.2f} of a fresh segment", "at most 1.25", ratio <= 1.25))
    if large and large_theirs:
        ratio = large_theirs.dispatch_ms / large.dispatch_ms
        lines.append(goal(dispatch(LARGE), f"1/{ratio:.0f} of upstream's", "at most 1/25", ratio >= 25))
    if small and small_theirs:
        ratio = small.dispatch_ms / small_theirs.dispatch_ms
        lines.append(goal(dispatch(SMALL), f"{ratio:.2f} of upstream's", "at most 1", ratio <= 1))
    if ours:
        peak = max(paid.shm_peak_bytes / paid.feature_bytes for paid in ours)
        lines.append(goal("peak in /dev/shm, any n", f"{peak:.3f} of one feature", "at most 1.02", peak <= 1.02))
    if grown:
        what = f"a further sample, n = {grown.few} to {grown.many}"
        lines.append(goal(what, f"{grown.microseconds:.0f} us", "under 100 us", grown.microseconds < 100))
        lines.append(goal(what, f"{grown.bytes:.0f} bytes", "under 4 KB", grown.bytes < 4096))
    return lines


def dispatch(of: tuple[int, int]) -> str:
    """Return the words for the dispatch of (n, size)."""
    n, size = of
    return f"dispatch, n = {n}, {size} x {size}"


def goal(what: str, measured: str, wanted: str, kept: bool) -> str:
    """Return the line that says whether a goal was reached: `kept` is true if it was."""
    return f"{what:<38} {measured:<24} {'reached' if kept else 'MISSED '}  (goal: {wanted})"
