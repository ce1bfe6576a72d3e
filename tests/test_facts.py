"""The fact sheet: every link to it arrives, and every command that it names can be given."""

from __future__ import annotations

import ast
import functools
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests import machine

SHEET = machine.ROOT / "docs" / "facts.md"
TEXT = SHEET.read_text(encoding="utf-8")
LINK = re.compile(r"\]\(([\w./]*facts\.md)#([\w-]+)\)")
COMMANDS = sorted(set(re.findall(r"`(python [^`]+)`", TEXT)))
TESTS = sorted(set(re.findall(r"`(tests/\w+\.py)::(\w+)`", TEXT)))


def tracked() -> list[Path]:
    """The pages and notebooks that git tracks."""
    told = subprocess.run(
        ["git", "ls-files", "*.md", "*.ipynb"], cwd=machine.ROOT, check=True, capture_output=True, encoding="utf-8"
    )
    return [machine.ROOT / name for name in told.stdout.splitlines()]


def prose(path: Path) -> str:
    """What a reader reads: a page, or the sources of a notebook's cells."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text
    return "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])


def anchors(page: str) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    heads = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head).strip().lower().replace(" ", "-") for head in heads}


LINKS = [(path, *link) for path in tracked() for link in LINK.findall(prose(path))]


def test_notebooks_and_pages_lead_to_the_sheet():
    assert {path.suffix for path, *_ in LINKS} == {".md", ".ipynb"}
    assert len(LINKS) >= 12


@pytest.mark.parametrize("link", LINKS, ids=lambda link: f"{link[0].name}#{link[2]}")
def test_a_link_arrives(link):
    path, target, anchor = link
    assert (path.parent / target).resolve() == SHEET
    assert anchor in anchors(TEXT)


@pytest.mark.parametrize("path", tracked(), ids=lambda path: path.name)
def test_nobody_cites_a_sheet_that_is_not_here(path):
    assert not re.search(r"\bFACTS\b", prose(path))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_exists_and_knows_its_options(command):
    _, *words = shlex.split(command)
    program = words[:2] if words[0] == "-m" else words[:1]
    known = usage(*program)
    for option in re.findall(r"--[a-z][\w-]*", " ".join(words[len(program) :])):
        assert option in known, option
    if words != program:
        usage(*words)  # the values are accepted, too


@functools.cache
def usage(*program: str) -> set[str]:
    """The options that a program says it has. Its exit status must be 0."""
    told = subprocess.run(
        [sys.executable, *program, "--help"], cwd=machine.ROOT, check=True, capture_output=True, encoding="utf-8"
    )
    return set(re.findall(r"--[a-z][\w-]*", told.stdout))


@pytest.mark.parametrize(("file", "name"), TESTS)
def test_a_test_that_is_evidence_exists(file, name):
    tree = ast.parse((machine.ROOT / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(
    "row", [row for row in TEXT.splitlines() if row.startswith("| ") and "---" not in row], ids=lambda row: row[:40]
)
def test_every_fact_has_its_evidence(row):
    """A command, a test, a source, a report, or a measurement; the head of a table says `evidence`, or has columns of
    figures."""
    priced = re.search(r"\bMB \|$|peak in", row)
    assert re.search(r"python |tests/|source: |reported: |measured|\| evidence \|$", row) or priced, row
