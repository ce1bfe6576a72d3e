"""Which object points to which: requests, `mm_inputs`, `mm_items`, items and features, at one moment.

The objects are read into boxes. Each object has one box, even if many objects point to it. The boxes are numbered
in the order in which they are read, and no id() is shown. `text` lists the boxes, and
`repro.lab.pictures.objects_svg` draws them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

FOLLOWED = ("rid", "mm_inputs", "mm_items", "feature")  # the fields that the bug is about
LONGEST = 10  # elements of a list that are shown


@dataclass(eq=False)
class Box:
    """One object: its `kind`, its `number` among the objects of this kind, and its `fields`. `owner` is the root from
    which the object was reached first, and `path` is the path from there."""

    kind: str
    number: int
    owner: str = ""
    path: str = ""
    mutated: bool = False
    fields: list[tuple[str, Box | str]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The kind and the number: `MultimodalInputs #1`."""
        return f"{self.kind} #{self.number}" if self.number else self.kind


class Reader:
    """Reads objects into boxes. Random names (of segments, of requests) become numbers."""

    def __init__(self, mutated: object | None = None) -> None:
        self.mutated = mutated
        self.boxes: dict[int, tuple[Box, object]] = {}  # with the object: while it lives, no other object has its id()
        self.known: dict[str, list[str]] = {}

    def roots(self, roots: Mapping[str, object]) -> Box:
        """A box that has one field for each root."""
        names = {_line(name): thing for name, thing in roots.items()}
        return Box("names", 0, fields=[(name, self.read(thing, name, name)) for name, thing in names.items()])

    def read(self, thing: Any, owner: str, path: str) -> Box | str:
        """The object's box; for None, a text or a number, its text instead."""
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
    """One line for each path: `sample.mm_inputs -> MultimodalInputs #1 (shared with request)`. The fields of a shared
    object are listed only at the path from which the object was reached first."""
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


def _kind(thing: Any) -> str:
    """The type's name; for a tensor or an array its shape and its dtype, never its values."""
    if hasattr(thing, "shape") and hasattr(thing, "dtype") and not hasattr(thing, "shm_name"):
        numpy = type(thing).__module__.partition(".")[0] == "numpy"
        return f"{'array' if numpy else 'tensor'} {' '.join(_array(thing))}"
    return _line(type(thing).__name__)


def _array(thing: Any) -> tuple[str, str]:
    """The shape and the dtype of an array: `(64, 1176)`, `float32`."""
    return _line(tuple(getattr(thing, "shape", ()))), _line(str(getattr(thing, "dtype", "?")).rpartition(".")[2])


def _line(words: object, longest: int = 40) -> str:
    """`words` as one printable line of at most `longest` characters."""
    line = "".join(letter if letter.isprintable() else "?" for letter in str(words))
    return line if len(line) <= longest else line[: longest - 3] + "..."
