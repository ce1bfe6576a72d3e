"""The boxes of `objects` as a graph. Each box becomes a table, and Graphviz's dot lays the tables out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from xml.sax.saxutils import escape

from repro.lab.pictures import dot
from repro.lab.pictures.objects import Box, Reader, text
from repro.lab.pictures.svg import document, lines

STYLE = """digraph {{
  rankdir={direction} ranksep=0.35 nodesep=0.25 bgcolor=transparent
  node [shape=plaintext fontname=Courier fontsize=12.5]
  edge [arrowtail=dot dir=both tailclip=false arrowsize=0.7]
"""  # without fonts, dot takes every letter to be as wide as a letter of Courier
TABLE = '<TABLE BORDER="1" CELLBORDER="1" CELLSPACING="4" CELLPADDING="3" BGCOLOR="white"{port}>{rows}</TABLE>'
FRAME = '<TABLE BORDER="3" CELLBORDER="0" CELLSPACING="2" PORT="table"><TR><TD>{table}</TD></TR></TABLE>'


def graph(roots: Mapping[str, object], *, mutated: object | None = None, title: str = "") -> str:
    """An SVG document with the objects that `roots` lead to: requests, `mm_inputs`, `mm_items`, items, features. Each
    object is drawn once, even if many objects point to it. The `mutated` object has a double border. Without dot, the
    document shows the text, and says why. Raises Refused if dot fails."""
    described = text(roots, mutated)
    if dot.path() is None:
        drawn = lines([*described.splitlines(), "", f"(as text: {dot.NONE})"])
    else:
        drawn = dot.drawing(_source(roots, mutated))
    return document(title or "which object points to which", described, *drawn)


def _source(roots: Mapping[str, object], mutated: object | None) -> str:
    """The graph in dot's language."""
    reader = Reader(mutated)
    root = reader.roots(roots)
    boxes = [root, *(box for box, _ in reader.boxes.values())] if root.fields else [root]
    return "\n".join(_statements(boxes, upright=len(root.fields) > 4))  # many fields side by side would be too wide


def _statements(boxes: list[Box], *, upright: bool) -> Iterator[str]:
    """The statements of dot's language for these boxes. With `upright`, the arrows lead from left to right, and the
    fields of a table stand one below the other."""
    numbers = {id(box): number for number, box in enumerate(boxes)}
    yield STYLE.format(direction="LR" if upright else "TB")
    yield from (f"  n{numbers[id(box)]} [label=<{_table(box, upright)}>]" for box in boxes)
    leaves, enters = (":e", ":w") if upright else (":c", "")
    for box in boxes:
        for place, (_, target) in enumerate(box.fields):
            if isinstance(target, Box):
                yield f"  n{numbers[id(box)]}:ref{place}{leaves} -> n{numbers[id(target)]}:table{enters}"
    yield "}"


def _table(box: Box, upright: bool) -> str:
    """A box as a table: a heading, and its fields. An arrow starts from a field that leads to another box."""
    cells = [(_key(key), _value(place, target)) for place, (key, target) in enumerate(box.fields)]
    leads_on = any(isinstance(target, Box) for _, target in box.fields)
    if upright or not leads_on:
        rows = "".join(f"<TR>{key}{value}</TR>" for key, value in cells)
        span = 2
    else:
        rows = "".join(f"<TR>{''.join(row)}</TR>" for row in zip(*cells, strict=True))
        span = len(cells)
    head = f'<TR><TD BORDER="0" COLSPAN="{span}"><B> {escape(box.name)} </B></TD></TR>'
    if not box.mutated:
        return TABLE.format(port=' PORT="table"', rows=head + rows)
    head += f'<TR><TD COLSPAN="{span}" BGCOLOR="black"><FONT COLOR="white"><B> mutated </B></FONT></TD></TR>'
    return FRAME.format(table=TABLE.format(port="", rows=head + rows))


def _key(key: str) -> str:
    return f'<TD STYLE="rounded"> {escape(key)} </TD>'


def _value(place: int, target: Box | str) -> str:
    return f'<TD PORT="ref{place}"> </TD>' if isinstance(target, Box) else f"<TD> {escape(target)} </TD>"
