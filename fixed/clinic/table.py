"""The rows as tables for a terminal, and the goals of design 5 as ratios."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fixed.clinic.prices import Growth
from fixed.clinic.rows import Row
from fixed.designs import COPIES, ONE_SEGMENT

LARGE, SMALL = (32, 1536), (2, 224)  # n and size that the goals are about
NOTHING = "-"


def table(rows: Sequence[Row]) -> str:
    """Both tables."""
    return f"{health_table(rows)}\n\n{price_table(rows)}"


def health_table(rows: Sequence[Row]) -> str:
    """Whether it is right, what it leaves, and what it changes: a line a design."""
    return "\n".join(_health(rows))


def price_table(rows: Sequence[Row]) -> str:
    """What it costs: a line each design, n and size that was priced."""
    return "\n".join(_prices(rows))


def _health(rows: Sequence[Row]) -> Iterator[str]:
    situations = list(dict.fromkeys(name for row in rows for name in row.leaks))
    heads = ("design", "right", "source", *situations, "64 MB", "lines", "places", "who frees a segment")
    lines = []
    for row in {row.design: row for row in rows}.values():
        right = "crash" if row.crashed else "yes" if row.correct else "NO"
        kept = "mutated" if row.mutates else "kept"
        left = [str(row.leaks.get(name, NOTHING)) for name in situations]
        size = str(row.lines or NOTHING), str(row.places)
        lines.append((row.design, right, kept, *left, row.small_shm or NOTHING, *size, row.owner))
    yield from _aligned(heads, lines)
    yield "under a situation: names left in /dev/shm; lines: of code; what runs in the scheduler is changed by none"


def _prices(rows: Sequence[Row]) -> Iterator[str]:
    heads = ("design", "n", "size", "dispatch ms", "of the floor", "copied MB", "peak MB", "of a feature")
    lines = [
        (
            row.design,
            str(row.n),
            str(row.size),
            f"{row.dispatch_ms:.2f}",
            f"{row.dispatch_ms / row.floor_ms:.2f}",
            f"{row.bytes_copied / 1e6:.2f}",
            f"{row.shm_peak_bytes / 1e6:.2f}",
            f"{row.shm_peak_bytes / row.feature_bytes:.2f}",
        )
        for row in sorted(rows, key=lambda row: (row.size, row.n))
        if row.dispatch_ms is not None
    ]
    yield from _aligned(heads, lines, numbers=slice(1, None))
    yield "the floor: one first write of the feature into a fresh segment, measured beside each run"


def _aligned(heads: tuple[str, ...], lines: list[tuple[str, ...]], numbers: slice = slice(0, 0)) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(heads, *lines, strict=True)]
    right = range(len(heads))[numbers]
    for line in (heads, *lines):
        cells = [
            text.rjust(width) if place in right else text.ljust(width)
            for place, (text, width) in enumerate(zip(line, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def goals(rows: Sequence[Row], grown: Growth | None = None) -> list[str]:
    """Design 5 against its goals, a line each, as ratios between what was measured in this one run. Those that were not
    measured are left out."""
    found = {(row.design, row.n, row.size): row for row in rows if row.dispatch_ms is not None}
    large, large_theirs = (found.get((design.name, *LARGE)) for design in (ONE_SEGMENT, COPIES))
    small, small_theirs = (found.get((design.name, *SMALL)) for design in (ONE_SEGMENT, COPIES))
    ours = [row for row in found.values() if row.design == ONE_SEGMENT.name]
    lines = []
    if large:
        ratio = large.dispatch_ms / large.floor_ms
        lines.append(_goal(_dispatch(LARGE), f"{ratio:.2f} of the floor", "at most 1.25", ratio <= 1.25))
    if large and large_theirs:
        ratio = large_theirs.dispatch_ms / large.dispatch_ms
        lines.append(_goal(_dispatch(LARGE), f"1/{ratio:.0f} of upstream's", "at most 1/25", ratio >= 25))
    if small and small_theirs:
        ratio = small.dispatch_ms / small_theirs.dispatch_ms
        lines.append(_goal(_dispatch(SMALL), f"{ratio:.2f} of upstream's", "at most 1", ratio <= 1))
    if ours:
        peak = max(row.shm_peak_bytes / row.feature_bytes for row in ours)
        lines.append(_goal("peak in /dev/shm, any n", f"{peak:.3f} of one feature", "at most 1.02", peak <= 1.02))
    if grown:
        what = f"a further sample, n = {grown.few} to {grown.many}"
        lines.append(_goal(what, f"{grown.microseconds:.0f} us", "under 100 us", grown.microseconds < 100))
        lines.append(_goal(what, f"{grown.bytes:.0f} bytes", "under 4 KB", grown.bytes < 4096))
    return lines


def _dispatch(of: tuple[int, int]) -> str:
    n, size = of
    return f"dispatch, n = {n}, {size} x {size}"


def _goal(what: str, measured: str, wanted: str, kept: bool) -> str:
    return f"{what:<38} {measured:<22} {'reached' if kept else 'MISSED '}  (goal: {wanted})"
