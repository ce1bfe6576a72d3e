"""One lane for each client, with time running downwards: which clients get a whole answer, and which answers are cut.
Time is drawn in steps and not to scale. So two runs with the same end give the same picture, byte for byte."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from repro.lab.pictures import svg

WIDE, STEP, TOP = 118, 46, 60  # pixels: the width of a lane, the height of a step, the height of the lanes' heads
STEPS = ("asks", "first token", "image, n > 1", "end", "next client")
END = 3  # the step at which answers end, whole or cut


@dataclass(frozen=True)
class Lane:
    """The lane of one client. The client asks at the step `asks`, and its answer ends at the step `ends` (numbers of
    STEPS, from 0). `whole` says whether the answer was whole. `says` is the word at the end of the lane."""

    title: str
    asks: int
    ends: int
    whole: bool
    says: str


def text(lanes: Sequence[Lane]) -> str:
    """The picture's content as text: one line for each client."""
    return "\n".join(
        f"{lane.title} asks at step {lane.asks + 1}, and at step {lane.ends + 1} "
        f"{'has a whole answer' if lane.whole else 'is cut'}: {lane.says}"
        for lane in lanes
    )


def clients(lanes: Sequence[Lane], *, title: str = "") -> str:
    """The picture as SVG."""
    width, height = 2 * svg.EDGE + WIDE * (len(lanes) + 1), TOP + STEP * len(STEPS) + 10
    body = [_label(step) for step in range(len(STEPS))]
    if not all(lane.whole for lane in lanes):
        y = TOP + STEP * END
        body.append(svg.stroke(f"M{svg.EDGE + 40} {y}H{width - svg.EDGE}", color=svg.BAD, width=2, dash="7 4"))
        body.append(svg.text(width - svg.EDGE, y - 8, "the server is gone", anchor="end", size=12, color=svg.BAD))
    body += [_lane(place, lane) for place, lane in enumerate(lanes)]
    return svg.document(title, text(lanes), width, height, "\n".join(body))


def _label(step: int) -> str:
    return svg.text(svg.EDGE, TOP + STEP * step + 5, STEPS[step], size=12, color=svg.SOFT)


def _lane(place: int, lane: Lane) -> str:
    x = svg.EDGE + WIDE * (place + 1) + WIDE / 2
    top, end = TOP + STEP * lane.asks, TOP + STEP * lane.ends
    ink = svg.INK if lane.whole else svg.BAD
    parts = [svg.text(x, 24, lane.title, anchor="middle", size=13, weight="bold"), _dot(x, top)]
    if end > top:
        parts.append(svg.stroke(f"M{x} {top}V{end}", width=3))
    if lane.whole:
        parts.append(_dot(x, end))
    else:
        parts.append(svg.stroke(f"M{x - 7} {end - 7}L{x + 7} {end + 7}M{x + 7} {end - 7}L{x - 7} {end + 7}", color=ink))
    parts.append(svg.text(x, end + 22, lane.says, anchor="middle", size=11, color=ink))
    return "\n".join(parts)


def _dot(x: float, y: float) -> str:
    return f'<circle cx="{x}" cy="{y}" r="4" fill="{svg.INK}"/>'
