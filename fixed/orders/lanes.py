"""An order as lanes: a column for each process, and a line for each act, downwards in time. Beside the tokenizer's
lane, a table shows the names that exist."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fixed.orders.explorer import Explored
from fixed.orders.machine import TOKENIZER, Act
from repro.lab.pictures.lane_rows import GLYPHS
from repro.lab.pictures.svg import BAD, CHAR, EDGE, INK, NAMED, PALE, SOFT, document, stroke, text
from repro.lab.terminal import aligned

ROW, PITCH, BAR = 26, 34, 12  # pixels: the height of a line, the width of a name's column and of a name's bar
BAD_ACTS = ("fails", "killed", "kills", "goes away", "other pixels")


@dataclass(frozen=True)
class Line:
    """One act in its lane, and the names that exist afterwards."""

    lane: str
    words: str
    names: frozenset[int]
    name: int

    @property
    def bad(self) -> bool:
        """Whether the act is an error or a fault."""
        return any(words in self.words for words in BAD_ACTS)


def lines(order: Sequence[Act], n: int = 2, labels: Sequence[str] = ()) -> list[Line]:
    """Return a line for each act of the order. `labels` are the names of the sends, if not the usual ones."""
    names: set[int] = set()
    found = []
    for act in order:
        if act.what in ("create", "link"):
            names.add(act.name)
        if act.what == "unlink":
            names.discard(act.name)
        lane = act.who if act.who == TOKENIZER or act.who.startswith("rank ") else "others"
        words = _words(act, n, labels) if lane != "others" else f"{act.who}: {_words(act, n, labels)}"
        found.append(Line(lane, words, frozenset(names), act.name))
    return found


def told(explored: Explored) -> Iterator[str]:
    """Yield the shortest wrong order as lines of text, with a heading."""
    ranks = "1 rank" if explored.ranks == 1 else f"{explored.ranks} ranks"
    where = f"{explored.protocol.name}, n = {explored.n}, {ranks}"
    yield f"{where}: {explored.verdict}. The shortest order that leads there:"
    yield from as_text(explored)


def as_text(explored: Explored) -> Iterator[str]:
    """Yield the shortest wrong order as lines of text, and at last the names that are left. Yield nothing if no order
    is wrong."""
    found = lines(explored.shortest, explored.n, explored.labels)
    lanes, count = _lanes(found), _count(found)
    if not found:
        return
    rows = [("", TOKENIZER, " ".join(str((name + 1) % 10) for name in range(count)), *lanes[1:])]
    for number, line in enumerate(found, 1):
        cells = [line.words if lane == line.lane else "" for lane in lanes]
        table = " ".join(GLYPHS["named"] if name in line.names else " " for name in range(count))
        rows.append((number, cells[0], table, *cells[1:]))
    yield from aligned(rows, right=slice(0, 1))
    if found[-1].names and "left" in explored.verdict:
        yield f"left in /dev/shm: {', '.join(f'name {name + 1}' for name in sorted(found[-1].names))}"


def as_svg(explored: Explored) -> str:
    """Return the shortest wrong order as an SVG document."""
    found = lines(explored.shortest, explored.n, explored.labels)
    title = f"{explored.protocol.name}: {explored.verdict}"
    if not found:
        return document(title, title, 400, 10, "")
    lanes, count = _lanes(found), _count(found)
    widths = {lane: max(90.0, *(CHAR * len(line.words) for line in found if line.lane == lane)) for lane in lanes}
    table = EDGE + 30 + widths[TOKENIZER] + 16  # where the names' columns begin
    place, xs = table + PITCH * count + 16, {TOKENIZER: table - 16}
    for lane in lanes[1:]:
        xs[lane] = place
        place += widths[lane] + 16
    height = 56 + ROW * len(found)
    body = [
        f'<rect x="{table:.0f}" y="4" width="{PITCH * count}" height="{height - 4}" rx="4" fill="{PALE}"/>',
        *(text(xs[lane], 20, lane, anchor=_anchor(lane), weight="bold") for lane in lanes),
        *(text(_column(table, name), 20, str(name + 1), anchor="middle", color=SOFT) for name in range(count)),
        *(mark for number, line in enumerate(found) for mark in _act(line, number, xs, table)),
        *(_bar(table, name, number) for number, line in enumerate(found) for name in line.names),
    ]
    return document(title, "\n".join(told(explored)), place + EDGE, height, "\n".join(body))


def _act(line: Line, number: int, xs: dict[str, float], table: float) -> Iterator[str]:
    y, color = _y(number) + 5, BAD if line.bad else INK
    weight = "bold" if line.bad else "normal"
    yield text(EDGE, y, str(number + 1), color=SOFT, size=12)
    yield text(xs[line.lane], y, line.words, anchor=_anchor(line.lane), color=color, weight=weight)
    removed = line.words.startswith("unlink") or line.bad
    if removed and line.name >= 0 and line.name not in line.names:  # it was removed by this act, or before
        x = _column(table, line.name)
        yield stroke(f"M{x - BAR:.0f} {_y(number)}h{2 * BAR}", color=color, width=3)


def _bar(table: float, name: int, number: int) -> str:
    x = _column(table, name) - BAR / 2
    return f'<rect x="{x:.1f}" y="{_y(number) - ROW / 2:.1f}" width="{BAR}" height="{ROW}" fill="{NAMED}"/>'


def _y(number: int) -> float:
    return 44 + ROW * number


def _column(table: float, name: int) -> float:
    return table + PITCH * (name + 0.5)


def _anchor(lane: str) -> str:
    return "end" if lane == TOKENIZER else "start"


def _lanes(found: Sequence[Line]) -> list[str]:
    """The lanes that are drawn: the tokenizer, the ranks that acted, and `others`, if any other process acted."""
    others = sorted({line.lane for line in found} - {TOKENIZER, "others"})
    return [TOKENIZER, *others, *["others"] * any(line.lane == "others" for line in found)]


def _count(found: Sequence[Line]) -> int:
    return max((max([line.name, *line.names], default=-1) + 1 for line in found), default=0)


def _words(act: Act, n: int, labels: Sequence[str]) -> str:
    """`send name 3 (warm-up)`: names are counted from 1, as in the other pictures."""
    named = f" name {act.name + 1}" if act.name >= 0 else ""
    of = f" ({_label(act.send, n, labels)})" if act.send >= 0 else ""
    what, _, fails = act.what.partition(" fails")
    if act.what in ("open fails", "send fails", "link fails"):
        return f"{what}{named}{of} fails{fails}"
    if what.startswith("asks "):
        question, _, answer = what.partition(": ")
        return f"{question}:{named}{answer and f' {answer}'}"
    return f"{act.what}{named}{of}"


def _label(send: int, n: int, labels: Sequence[str]) -> str:
    if labels:
        return labels[send]
    return "request" if n == 1 else f"sample {send}" if send else "warm-up"
