"""The boxes of `objects` as a graph: each box a table, laid out by Graphviz's dot."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from xml.sax.saxutils import escape

from repro.lab.pictures.objects import Box, Reader, text
from repro.lab.pictures.svg import EDGE, MONO, document, lines
from repro.lab.refused import Refused

SCALE = 1.15  # of dot's picture: its letters are then as large as the others
NO_DOT = "no dot on this machine; `pip install 'pygraphviz>=2'` brings one, without root"
WHEEL = (  # the wheel has dot as a library: in a process of its own, it cannot take this one down with it
    "import sys, pygraphviz; graph = pygraphviz.AGraph(string=sys.stdin.buffer.read().decode()); "
    "sys.stdout.buffer.write(graph.draw(format='svg', prog='dot'))"
)
STYLE = """digraph {{
  rankdir={direction} ranksep=0.35 nodesep=0.25 bgcolor=transparent
  node [shape=plaintext fontname=Courier fontsize=12.5]
  edge [arrowtail=dot dir=both tailclip=false arrowsize=0.7]
"""  # a letter of Courier is as wide as dot takes it to be without fonts
TABLE = '<TABLE BORDER="1" CELLBORDER="1" CELLSPACING="4" CELLPADDING="3" BGCOLOR="white"{port}>{rows}</TABLE>'
FRAME = '<TABLE BORDER="3" CELLBORDER="0" CELLSPACING="2" PORT="table"><TR><TD>{table}</TD></TR></TABLE>'


def graph(roots: Mapping[str, object], *, mutated: object | None = None, title: str = "") -> str:
    """An SVG document: the objects that `roots` lead to (requests, `mm_inputs`, `mm_items`, items, features), each
    drawn once however many point to it, the `mutated` one in a double border. Without dot it shows the text and says
    so. Raises Refused if dot fails."""
    described = text(roots, mutated)
    if dot_path() is None:
        drawn = lines([*described.splitlines(), "", f"(as text: {NO_DOT})"])
    else:
        width, height, inner = _drawing(roots, mutated)
        inner = f'<g transform="translate({EDGE} 4) scale({SCALE})" font-family="{MONO}">\n{inner}\n</g>'
        drawn = width * SCALE + 2 * EDGE, height * SCALE + 4 + EDGE, inner
    return document(title or "which object points to which", described, *drawn)


def dot_path() -> str | None:
    """Where the dot is that draws: in pygraphviz's wheel, else on PATH; None if there is none."""
    wheel = importlib.util.find_spec("pygraphviz")
    return wheel.origin if wheel else shutil.which("dot")


def _drawing(roots: Mapping[str, object], mutated: object | None) -> tuple[float, float, str]:
    """Width, height and inner SVG of the graph."""
    reader = Reader(mutated)
    root = reader.roots(roots)
    boxes = [root, *(box for box, _ in reader.boxes.values())] if root.fields else [root]
    svg = _run_dot("\n".join(_dot(boxes, upright=len(root.fields) > 4)))  # many side by side would be too wide
    width, height = (float(side) for side in re.search(r'viewBox="\S+ \S+ (\S+) (\S+)"', svg).groups())
    inner = svg[svg.index("<g ") : svg.rindex("</svg>")]
    for noise in (r"<!--.*?-->\n?", r"<title>.*?</title>\n?", r' (?:id|class|font-family)="[^"]*"'):
        inner = re.sub(noise, "", inner, flags=re.DOTALL)
    return width, height, inner.rstrip()


def _dot(boxes: list[Box], *, upright: bool) -> Iterator[str]:
    """The graph in dot's language. With `upright`, tables stand one beside the other, from left to right."""
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


def _run_dot(source: str) -> str:
    """The SVG of that graph. Raises Refused with dot's last words."""
    path = dot_path()
    command = [sys.executable, "-c", WHEEL] if importlib.util.find_spec("pygraphviz") else [path, "-Tsvg"]
    with tempfile.NamedTemporaryFile("w", suffix=".conf", encoding="utf-8") as fonts:
        fonts.write("<fontconfig></fontconfig>")  # without fonts, letters are as wide on every machine
        fonts.flush()
        env = {**os.environ, "FONTCONFIG_FILE": fonts.name}
        done = subprocess.run(command, input=source, capture_output=True, encoding="utf-8", env=env, timeout=60)
    if done.returncode or "<svg" not in done.stdout:
        last = (done.stderr.strip().splitlines() or ["nothing said"])[-1]
        raise Refused(f"{path} drew nothing ({last})", "`pip install 'pygraphviz>=2'` brings one that does")
    return done.stdout
