"""The house: its rooms, its arrows, its map, and what no module may name."""

from __future__ import annotations

import ast
import importlib
import re
from collections import Counter

import pytest

from scripts import house
from tests import machine

MODULES = house.modules()
ROOMS = house.arrows_of_rooms()


def test_no_room_has_more_than_twelve_modules():
    sizes = Counter(house.room_of(module, MODULES) for module in MODULES if MODULES[module].name != "__init__.py")
    assert max(sizes.values()) <= 12, sizes


def test_rooms_have_no_circle_and_are_at_most_six_deep():
    assert max(house.levels(ROOMS).values()) < 6


def test_modules_have_no_circle():
    house.levels(house.arrows_of_modules())


def test_the_two_ways_do_not_know_each_other():
    assert "repro.lab.lifted" not in ROOMS["repro.lab.engine"]
    assert "repro.lab.engine" not in ROOMS["repro.lab.lifted"]


def test_the_ground_stands_on_nothing():
    assert ROOMS[house.GROUND] == set()


@pytest.mark.parametrize("module", [module for module in MODULES if module.partition(".")[0] == "repro"])
def test_repro_does_not_name_fixed(module):
    """No import names it, and no string that could be imported. Docstrings are not such strings, and a path such as
    `fixed/hotfix` is not one."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    assert not [name for name in house.imports(MODULES[module]) if name.partition(".")[0] == "fixed"]
    assert not [text for text in strings(tree) if is_a_name_in_fixed(text)]


@pytest.mark.parametrize("module", MODULES)
def test_no_package_hides_a_module_of_its_own(module):
    """`import fixed.clinic.charts as m` gives the module. No package has put a function in its place."""
    package, _, name = module.rpartition(".")
    spelled = importlib.import_module(module)
    if package:
        assert getattr(importlib.import_module(package), name) is spelled


def strings(tree: ast.AST) -> list[str]:
    """The strings of a module that are not documentation."""
    bodies = [node.body for node in ast.walk(tree) if isinstance(getattr(node, "body", None), list)]
    documentation = {id(body[0].value) for body in bodies if body and isinstance(body[0], ast.Expr)}
    constants = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [node.value for node in constants if id(node) not in documentation]


def is_a_name_in_fixed(text: str) -> bool:
    """Whether the text could be, or become, the name of a module in `fixed`."""
    return bool(re.search(r"^fixed\.?$|(?<![\w./])fixed(\.[\w{]|:\w)", text))


@pytest.mark.parametrize("text", ["fixed.detach:detach", "fixed.designs.", "fixed.{}:prepare", "fixed.", "fixed"])
def test_such_a_string_would_be_seen(text):
    assert is_a_name_in_fixed(text)


def test_the_map_names_every_room():
    told = importlib.import_module("repro.lab").__doc__
    for room in ROOMS:
        if room.startswith("repro.lab.") and " " not in room:
            assert re.search(rf"^{room.rpartition('.')[2]} ", told, re.MULTILINE), room


def test_the_page_names_every_room_and_only_modules_that_exist():
    page = (machine.ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for room in ROOMS:
        if " " not in room:
            assert room.replace(".", "/") in page, room
    rooms = [folder for folder in (machine.ROOT / "repro" / "lab").iterdir() if folder.is_dir()]
    for name in re.findall(rf"`((?:{'|'.join(folder.name for folder in rooms)})/\w+\.py)`", page):
        assert (machine.ROOT / "repro" / "lab" / name).is_file(), name


def test_test_modules_do_not_import_test_modules():
    for path in (machine.ROOT / "tests").glob("*.py"):
        assert not [name for name in house.imports(path) if re.search(r"(^|\.)test_", name)], path.name


def test_no_private_name_is_tested():
    for path in (machine.ROOT / "tests").glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        ours = {name.rpartition(".")[2] for name in house.imports(path) if name in MODULES}
        reached = [
            f"{node.value.id}.{node.attr}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ours
        ]
        patched = [
            f"{call.args[0].id}.{call.args[1].value}"
            for call in ast.walk(tree)
            if isinstance(call, ast.Call)
            and [type(word) for word in call.args[:2]] == [ast.Name, ast.Constant]
            and call.args[0].id in ours
        ]
        assert not [name for name in reached + patched if re.search(r"\._(?!_)", str(name))], path.name
