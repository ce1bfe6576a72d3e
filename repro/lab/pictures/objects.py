"""Which object points to which: requests, `mm_inputs`, `mm_items`, items and features, at one moment.

The objects are read into boxes, one box an object however many point to it, numbered as they are met: no id() gets
out. `text` writes the boxes down; `drawing` hands them to memory_graph, and memory_graph's graph to dot.
"""

from __future__ import annotations

import builtins
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from unittest import mock
from xml.sax.saxutils import escape

from repro.lab.evidence.verdict import Refused

FOLLOWED = ("rid", "mm_inputs", "mm_items", "feature")  # the fields that the bug is about
LONGEST = 10  # elements of a list that are shown
NO_DOT = "no dot on this machine; `pip install memory_graph 'pygraphviz>=2'` brings one, without root"
WHEEL = (  # the wheel has dot as a library: in a process of its own, it cannot take this one down with it
    "import sys, pygraphviz; graph = pygraphviz.AGraph(string=sys.stdin.buffer.read().decode()); "
    "sys.stdout.buffer.write(graph.draw(format='svg', prog='dot'))"
)
NODE = re.compile(r"node(\d+) \[label=<\n<TABLE [^>]*>\n(.*?)</TABLE>\n>\]", re.DOTALL)  # as memory_graph writes it


@dataclass(eq=False)
class Box:
    """One object: what it is, which one of these, and its fields. `owner` is the root that it was met from, `path`
    the way there."""

    kind: str
    number: int
    owner: str = ""
    path: str = ""
    mutated: bool = False
    fields: list[tuple[str, Box | str]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.kind} #{self.number}" if self.number else self.kind


class Reader:
    """Reads objects into boxes. Random names (of segments, of requests) become numbers."""

    def __init__(self, mutated: object | None = None) -> None:
        self.mutated = mutated
        self.boxes: dict[int, tuple[Box, object]] = {}  # with the object: as long as it lives its id() is its own
        self.known: dict[str, list[str]] = {}

    def roots(self, roots: Mapping[str, object]) -> Box:
        """A box of names, each with what it leads to."""
        names = {_line(name): thing for name, thing in roots.items()}
        return Box("names", 0, fields=[(name, self.read(thing, name, name)) for name, thing in names.items()])

    def read(self, thing: Any, owner: str, path: str) -> Box | str:
        """The object's box, or its words if it is too small for a box."""
        if thing is None or isinstance(thing, (str, int, float)):
            unique = isinstance(thing, str) and re.fullmatch("[0-9a-f]{32}", thing)
            return self._numbered("rid", thing) if unique else _line(repr(thing))
        if id(thing) in self.boxes:
            return self.boxes[id(thing)][0]
        kind = _kind(thing)
        box = Box(kind, self._count(kind), owner, path, thing is self.mutated)
        self.boxes[id(thing)] = box, thing
        if isinstance(thing, (list, tuple)):
            each = [(f"[{k}]", thing[k]) for k in range(min(len(thing), LONGEST))]
            box.fields = [(key, self.read(value, owner, path + key)) for key, value in each]
            box.fields += [("[...]", f"{len(thing) - LONGEST} more")] * (len(thing) > LONGEST)
        elif hasattr(thing, "shm_name"):
            shape, dtype = _array(thing)
            box.fields = [("shm_name", self._numbered("name", thing.shm_name)), ("shape", shape), ("dtype", dtype)]
        else:
            each = [(key, getattr(thing, key)) for key in FOLLOWED if hasattr(thing, key)]
            box.fields = [(key, self.read(value, owner, f"{path}.{key}")) for key, value in each]
        return box

    def _count(self, kind: str) -> int:
        return sum(box.kind == kind for box, _ in self.boxes.values()) + 1

    def _numbered(self, kind: str, name: str) -> str:
        names = self.known.setdefault(kind, [])
        if name not in names:
            names.append(name)
        return f"{kind} {names.index(name) + 1}"


def text(roots: Mapping[str, object], mutated: object | None = None) -> str:
    """One line a path: `sample.mm_inputs -> MultimodalInputs #1 (shared with request)`. What is shared is followed
    only from where it was met first."""
    box = Reader(mutated).roots(roots)
    return "\n".join(line for name, target in box.fields for line in _told(name, name, target)) or "no objects"


def _told(owner: str, path: str, target: Box | str) -> Iterator[str]:
    if isinstance(target, str):
        yield f"{path} = {target}"
        return
    first = path == target.path
    shared = [] if first else [f"shared with {target.owner if target.owner != owner else target.path}"]
    notes = ", ".join(shared + ["mutated"] * target.mutated)
    yield f"{path} -> {target.name}" + f" ({notes})" * bool(notes)
    for key, value in target.fields if first else ():
        yield from _told(owner, f"{path}{'' if key.startswith('[') else '.'}{key}", value)


def drawing(roots: Mapping[str, object], mutated: object | None = None) -> tuple[float, float, str] | None:
    """Width, height and inner SVG of the graph; None if there is nothing to draw with. Raises `Refused` if dot fails.

    memory_graph walks the boxes, lays out their tables and orders them; its node ids, which are id()s, its colours and
    its floating labels are replaced in the DOT that it writes.
    """
    if dot_path() is None or importlib.util.find_spec("memory_graph") is None:
        return None
    reader = Reader(mutated)
    root = reader.roots(roots)
    boxes = {id(box): box for box in [root, *(box for box, _ in reader.boxes.values())]}
    horizontal = len(root.fields) > 4  # side by side they would be too wide
    svg = _run_dot(_restyled(_source(root, horizontal), boxes, horizontal))
    width, height = (float(side) for side in re.search(r'viewBox="\S+ \S+ (\S+) (\S+)"', svg).groups())
    inner = svg[svg.index("<g ") : svg.rindex("</svg>")]
    for noise in (r"<!--.*?-->\n?", r"<title>.*?</title>\n?", r' (?:id|class|font-family)="[^"]*"'):
        inner = re.sub(noise, "", inner, flags=re.DOTALL)
    return width, height, inner.rstrip()


def dot_path() -> str | None:
    """Where the dot is that draws: in pygraphviz's wheel, else on PATH; None if there is none."""
    wheel = importlib.util.find_spec("pygraphviz")
    return wheel.origin if wheel else shutil.which("dot")


def _source(root: Box, horizontal: bool) -> str:
    """The DOT that memory_graph writes for the boxes, its settings and the builtins left as they were."""
    before = vars(builtins).get("mg")
    import memory_graph

    if before is None:  # it puts itself there
        vars(builtins).pop("mg", None)

    def value(target: Box | str) -> Any:
        return target if isinstance(target, Box) else memory_graph.unquoted_str(target)

    def node(box: Box) -> memory_graph.Node_Base:
        if not box.fields:
            return memory_graph.Node_Leaf(box, memory_graph.unquoted_str(""))
        return memory_graph.Node_Key_Value(box, [(key, value(target)) for key, target in box.fields])

    settings = {
        "type_to_node": {Box: node, tuple: memory_graph.config.type_to_node[tuple]},
        "type_to_slicer": {memory_graph.Node_Key_Value: memory_graph.Slicer()},  # hide nothing
        "type_labels": False,
        "type_to_vertical": {Box: True} if horizontal else {},
        "fontname": "Courier",
        "fontsize": "12.5",  # a monospaced letter is then as wide as dot takes it to be without fonts
        "background_color": "transparent",
    }
    with mock.patch.multiple(memory_graph.config, **settings):
        return memory_graph.create_graph(root).source


def _restyled(source: str, boxes: Mapping[int, Box], horizontal: bool) -> str:
    """The same graph with numbers for ids, a heading in each node, and a double border around what was mutated."""
    numbers = {str(number): place for place, number in enumerate(boxes)}

    def node(found: re.Match[str]) -> str:
        box, rows = boxes[int(found[1])], found[2]
        span = f'COLSPAN="{rows.partition("</TR>")[0].count("<TD")}"'
        head = f'<TR><TD BORDER="0" {span}><B> {escape(box.name)} </B></TD></TR>'
        if box.mutated:
            head += f'<TR><TD {span} BGCOLOR="black"><FONT COLOR="white"><B> mutated </B></FONT></TD></TR>'
        port = "" if box.mutated else ' PORT="table"'
        table = f'<TABLE BORDER="1" CELLBORDER="1" CELLSPACING="4" CELLPADDING="3" BGCOLOR="white"{port}>'
        table += f"{head}{rows if box.fields else ''}</TABLE>"
        if box.mutated:
            table = f'<TABLE BORDER="3" CELLBORDER="0" CELLSPACING="2" PORT="table"><TR><TD>{table}</TD></TR></TABLE>'
        return f"node{found[1]} [label=<{table}>]"

    source = NODE.sub(node, source)
    source = re.sub(r"\bnode(\d+)", lambda found: f"n{numbers[found[1]]}", source)
    ends = r"\1:e -> \2:table:w" if horizontal else r"\1:c -> \2:table"  # else dot picks a side of the cell
    source = re.sub(r"(:ref\d+) -> (\w+):table", ends, source)
    style = f"rankdir={'LR' if horizontal else 'TB'} ranksep=0.35 nodesep=0.25\n"
    style += "\tedge [arrowtail=dot dir=both tailclip=false arrowsize=0.7]\n"
    return source.replace("\n\tn", f"\n\t{style}\tn", 1)


def _run_dot(source: str) -> str:
    """The SVG of that DOT. Raises `Refused` with dot's last words."""
    path = dot_path()
    command = [sys.executable, "-c", WHEEL] if importlib.util.find_spec("pygraphviz") else [path, "-Tsvg"]
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as fonts:
        fonts.write("<fontconfig></fontconfig>")  # without fonts, letters are as wide on every machine
        fonts.flush()
        env = {**os.environ, "FONTCONFIG_FILE": fonts.name}
        done = subprocess.run(command, input=source, capture_output=True, text=True, env=env, timeout=60)
    if done.returncode or "<svg" not in done.stdout:
        last = (done.stderr.strip().splitlines() or ["nothing said"])[-1]
        raise Refused(f"{path} drew nothing ({last}); `pip install 'pygraphviz>=2'` brings one that does")
    return done.stdout


def _kind(thing: Any) -> str:
    """The type's name; for tensors and arrays what they hold, never their values."""
    if hasattr(thing, "shape") and hasattr(thing, "dtype") and not hasattr(thing, "shm_name"):
        numpy = type(thing).__module__.partition(".")[0] == "numpy"
        return f"{'array' if numpy else 'tensor'} {' '.join(_array(thing))}"
    return _line(type(thing).__name__)


def _array(thing: Any) -> tuple[str, str]:
    """Its shape and its dtype: `(64, 1176)`, `float32`."""
    return _line(tuple(getattr(thing, "shape", ()))), _line(str(getattr(thing, "dtype", "?")).rpartition(".")[2])


def _line(words: object, longest: int = 40) -> str:
    """One printable line of it."""
    line = "".join(letter if letter.isprintable() else "?" for letter in str(words))
    return line if len(line) <= longest else line[: longest - 3] + "..."
