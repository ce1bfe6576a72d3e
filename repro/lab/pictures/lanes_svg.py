"""The rows of `lane_rows` as a drawing. The tokenizer's acts are on the left, the schedulers' acts are on the right,
and the name table is between them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

from repro.lab.pictures.lane_rows import LEGEND, NOTHING, Order, Row, letters, note, rows
from repro.lab.pictures.lane_rows import text as lanes_text
from repro.lab.pictures.svg import BAD, CHAR, EDGE, INK, NAMED, PALE, SOFT, document, lines, stroke, text, told

ROW, BAR = 28, 14  # pixels: a row, a segment's bar


def lanes(
    events: Iterable[Any], *, labels: Sequence[str] = (), title: str = "", order: Order = "send", times: bool = False
) -> str:
    """An SVG document. The tokenizer's acts are on the left, the schedulers' acts are on the right. Between them is one
    column for each name: a solid bar while the name is there, a hatched bar while the name is unlinked but a process
    still has the memory mapped, and an end when both are gone. The letter of its segment stands below a name. A failed
    act is an arrow that hits nothing. A tooltip shows the process, the send and the place of each mark. With `times`,
    it shows the time, too; then no two runs give the same picture.

    `events` have `at, pid, role, what, name, send, bytes, errno, where`; `labels[k]` is the label of send k. `order` is
    "send" (grouped by send: the same in every run) or "time" (as it happened: shows what overlapped).
    """
    events = list(events)
    found = rows(events, labels, order)
    width, height, body = _lanes(found, note(found, order), times) if found else lines([NOTHING])
    title = title or "tokenizer, the kernel's name table, scheduler"
    return document(title, lanes_text(events, labels, order=order), width, height, body)


def _lanes(found: list[Row], notes: list[str], times: bool) -> tuple[float, float, str]:
    """Width, height and body of the lanes."""
    count = len(found[0].states)
    pitch, step = 66 if count <= 4 else 30, ROW if len(found) <= 20 else ROW - 6
    sends = max(len(row.send) for row in found) * CHAR + 12
    left = EDGE + sends + max([_wide(row) for row in found if row.left], default=80) + 16  # the table's
    right = left + max(count * pitch + 16, 180)
    width = right + max([_wide(row) for row in found if not row.left], default=90) + 16 + EDGE
    columns = [(left + right) / 2 + (k - (count - 1) / 2) * pitch for k in range(count)]
    names = [f"name {k + 1}" if pitch > 40 else str(k + 1) for k in range(count)]
    known = letters(found)
    sizes = {row.segment: row.size for row in found if row.size} if pitch > 40 else {}
    behind = {k: ", ".join(filter(None, (known.get(k), sizes.get(k)))) for k in sorted({*known, *sizes})}
    ys, y = [], 90.0 if behind else 76.0
    for row in found:
        ys.append(y)
        y += step + 36 * bool(row.error)
    bottom = y - step / 2 + 6
    body = [
        f'<rect x="{left:.1f}" y="4" width="{right - left:.1f}" height="{bottom - 4:.1f}" rx="4" fill="{PALE}"/>',
        text(left - 16, 24, "tokenizer", anchor="end", weight="bold"),
        text((left + right) / 2, 24, "kernel's name table", anchor="middle", weight="bold"),
        text(right + 16, 24, "scheduler", weight="bold"),
        *(text(x, 46, name, anchor="middle") for x, name in zip(columns, names, strict=True)),
        *(text(columns[k], 62, words, anchor="middle", size=12, color=SOFT) for k, words in behind.items()),
        *([text(left - 16, 62, "segment", anchor="end", size=12, color=SOFT)] if known else []),
        *_sends(found, ys, step, width),
        *(
            told(_told(row, times), _act(row, y, columns[row.segment], left, right))
            for row, y in zip(found, ys, strict=True)
        ),
        *(
            told(f"name {k + 1}{_behind(known.get(k))}: {state}", marks)
            for k, x in enumerate(columns)
            for state, marks in _life([row.states[k] for row in found], ys, x, bottom)
        ),
        *(_cross(columns[row.segment], y) for row, y in zip(found, ys, strict=True) if row.error),
        *_legend(bottom + 26),
        *(text(EDGE, bottom + 58, words, size=12, color=SOFT) for words in notes),
    ]
    return max(width, 560), bottom + 44 + 26 * len(notes), "\n".join(body)


def _told(row: Row, times: bool) -> str:
    """The tooltip of a mark: process, send, act, place, and time."""
    who = ", ".join(filter(None, (row.role, row.send)))
    act = row.words + " fails" * bool(row.error) + _behind(row.letter)
    place = row.failure if row.error else f"at {row.where}" * bool(row.where)
    when = f"{row.after * 1000:.1f} ms after the first act" if times else ""
    return "; ".join(filter(None, (f"{who}: {act}", place, when)))


def _behind(letter: str | None) -> str:
    return f" (segment {letter})" if letter else ""


def _wide(row: Row) -> float:
    """The width in pixels that the row's words may need."""
    if not row.error:
        return len(row.words) * CHAR
    return max((len(row.words) + 6) * CHAR * 1.15, len(row.error) * CHAR, (len(row.where) + 3) * CHAR * 0.87)


def _sends(found: list[Row], ys: list[float], step: float, width: float) -> Iterator[str]:
    """The label of each send, beside its first row, and a line above it."""
    for send, places in groupby(range(len(found)), key=lambda place: found[place].send):
        y = ys[next(places)]
        yield stroke(f"M{EDGE} {y - step / 2 - 1:.1f}H{width - EDGE:.1f}", width=0.5, color=SOFT)
        yield text(EDGE, y + 5, send, color=SOFT)


def _act(row: Row, y: float, column: float, left: float, right: float) -> Iterator[str]:
    """The words of an act, in its lane, and an arrow to the name's bar. The arrow of a failed act hits nothing."""
    edge, way, anchor = (left, 1, "end") if row.left else (right, -1, "start")
    color, weight = (BAD, "bold") if row.error else (INK, "normal")
    beside = edge - 16 * way
    yield text(beside, y + 5, row.words + " fails" * bool(row.error), anchor=anchor, color=color, weight=weight)
    if row.error:
        yield text(beside, y + 23, row.error, anchor=anchor, color=color)
        yield text(beside, y + 40, row.where and f"at {row.where}", anchor=anchor, size=12, color=SOFT)
    tip = column - way * (BAR / 2 + 5)
    if row.error:
        yield stroke(f"M{edge - 9 * way:.1f} {y}H{tip:.1f}", color=BAD, dash="5 3")
    else:
        yield stroke(f"M{edge - 9 * way:.1f} {y}H{tip:.1f}m{-6 * way} -4l{6 * way} 4l{-6 * way} 4")


def _life(states: list[str], ys: list[float], x: float, bottom: float) -> Iterator[tuple[str, list[str]]]:
    """The parts of a name's bar, each with its words and its marks. The bar is solid while the name is there, hatched
    while the name is unlinked but the memory is mapped, and ends with a thick line."""
    for state, places in groupby(range(len(states)), key=states.__getitem__):
        places = list(places)
        begin = ys[places[0]] - (10 if state == "named" else 0)
        end = ys[places[-1] + 1] if places[-1] + 1 < len(ys) else bottom
        if state != "gone":
            yield LEGEND[state], [_bar(state, x - BAR / 2, begin, end - begin)]
        elif places[0]:
            yield LEGEND[state], [stroke(f"M{x - BAR / 2 - 4:.1f} {begin}h{BAR + 8}", width=3)]


def _bar(state: str, x: float, y: float, height: float) -> str:
    if state == "named":
        return f'<rect x="{x:.1f}" y="{y:.1f}" width="{BAR}" height="{height:.1f}" fill="{NAMED}"/>'
    hatch = "".join(f"M{x:.1f} {y + step + 5:.1f}l{BAR} -5" for step in range(1, int(height) - 4, 6))
    frame = f"M{x:.1f} {y:.1f}v{height:.1f}M{x + BAR:.1f} {y:.1f}v{height:.1f}"
    return stroke(frame + hatch, color=NAMED, width=1.4)


def _cross(x: float, y: float) -> str:
    path = f"M{x - 6:.1f} {y - 6:.1f}l12 12m0 -12l-12 12"
    return stroke(path, color="#ffffff", width=7) + stroke(path, color=BAD, width=3)


def _legend(y: float) -> Iterator[str]:
    x = EDGE
    for state, words in LEGEND.items():
        if state == "failed":
            yield _cross(x + 7, y)
        elif state == "gone":
            yield stroke(f"M{x - 2} {y}h{BAR + 4}", width=3)
        else:
            yield _bar(state, x, y - 9, 18)
        yield text(x + BAR + 8, y + 5, words)
        x += BAR + 30 + len(words) * CHAR
