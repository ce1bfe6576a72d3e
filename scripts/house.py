"""The house: which room imports which, read from the source.

A room is a package. The modules in `repro/lab` itself are two rooms: the entries, which people start, and the ground,
which every other room uses.
"""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from repro.lab.pictures import dot, svg

ROOT = Path(__file__).resolve().parents[1]
ENTRIES, GROUND = "repro.lab entries", "repro.lab ground"
STARTED = {"repro.lab.__main__", "repro.lab.trigger_table", "repro.lab.doctor"}
STYLE = "rankdir=TB ranksep=0.45 nodesep=0.3 bgcolor=transparent node [shape=box fontname=Courier fontsize=13]"
Arrows = Mapping[str, set[str]]


def modules() -> dict[str, Path]:
    """Every module of `repro` and `fixed`, by its dotted name. The plugin in `fixed/hotfix` is a project of its own."""
    found = {}
    for path in sorted(path for folder in ("repro", "fixed") for path in (ROOT / folder).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[:2] != ("fixed", "hotfix"):
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def room_of(module: str, names: Mapping[str, Path]) -> str:
    """Return the room of `module`."""
    room = module if names[module].name == "__init__.py" else module.rpartition(".")[0]
    if room != "repro.lab":
        return room
    return ENTRIES if module in STARTED else GROUND


def imports(path: Path) -> Iterator[str]:
    """Yield each name that the module at `path` imports, also inside functions. `import a.b` gives `a.b`, and
    `from a import b` gives `a` and `a.b`. Relative imports are not resolved."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def arrows_of_modules() -> Arrows:
    """Return, for each module, the other modules of the house that it imports. If a module of a package is imported by
    name, the arrow leads to the module and not to the package."""
    names = modules()
    arrows = {}
    for module, path in names.items():
        hit = {name for name in imports(path) if name in names} - {module}
        arrows[module] = {name for name in hit if not any(other.startswith(f"{name}.") for other in hit)}
    return arrows


def arrows_of_rooms() -> Arrows:
    """Return, for each room, the other rooms that its modules import."""
    names = modules()
    arrows: dict[str, set[str]] = {room_of(module, names): set() for module in names}
    for module, targets in arrows_of_modules().items():
        room = room_of(module, names)
        arrows[room] |= {room_of(target, names) for target in targets} - {room}
    return arrows


def levels(arrows: Arrows) -> dict[str, int]:
    """Return, for each node, the length of the longest path along the arrows. Raises graphlib.CycleError if the arrows
    make a circle."""
    depth: dict[str, int] = {}
    for name in graphlib.TopologicalSorter(arrows).static_order():
        depth[name] = max((depth[target] + 1 for target in arrows[name]), default=0)
    return depth


def picture() -> str:
    """Return the rooms and their arrows as SVG. If a longer path leads from A to C, the arrow from A to C is left
    out."""
    arrows = arrows_of_rooms()
    drawn = [(room, target) for room in sorted(arrows) for target in sorted(_direct(room, arrows))]
    source = "\n".join(["digraph {", STYLE, *(f'"{room}" -> "{target}"' for room, target in drawn), "}"])
    told = "\n".join(f"{room} uses {', '.join(sorted(arrows[room])) or 'nothing'}" for room in sorted(arrows))
    return svg.document("Which room uses which", told, *dot.drawing(source))


def _direct(room: str, arrows: Arrows) -> set[str]:
    """The rooms below `room` to which no other room below `room` leads."""
    below = arrows[room]
    return {target for target in below if not any(target in _reached(other, arrows) for other in below - {target})}


def _reached(room: str, arrows: Arrows) -> set[str]:
    return arrows[room].union(*(_reached(target, arrows) for target in arrows[room]))
