"""No file that git tracks holds a line of sglang's."""

from __future__ import annotations

import functools
import html
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from repro.lab.upstream import source
from tests import machine

SHORTEST = 45  # characters: a shorter line can be the same by chance
ANYBODYS = re.compile(r"from [\w.]+ import |import ")  # an import is written in one way only
WEIGHTS = "repro/lab/engine/tiny_vlm.safetensors"  # the one file that is no text


def tracked() -> list[str]:
    """The files that git tracks, LICENSE aside: sglang has the same license."""
    told = subprocess.run(["git", "ls-files"], cwd=machine.ROOT, check=True, capture_output=True, encoding="utf-8")
    return [name for name in told.stdout.splitlines() if name not in ("LICENSE", WEIGHTS)]


@functools.cache
def central() -> frozenset[str]:
    """The lines of the two files that the kit is about."""
    texts = [source.read(source.INSTALLED, file).text for file in (source.TOKENIZER_MANAGER, source.MM_UTILS)]
    return frozenset(_lines("\n".join(texts)))


@functools.cache
def all_lines() -> frozenset[str]:
    """The lines of the whole installed package."""
    package = source.read(source.INSTALLED, source.MM_UTILS).path.parents[1]
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in package.rglob("*.py")]
    return frozenset(line for line in _lines("\n".join(texts)) if len(line) > SHORTEST + 5)


def _lines(text: str) -> Iterator[str]:
    for line in map(str.strip, text.splitlines()):
        if len(line) > SHORTEST and not ANYBODYS.match(line):
            yield line


def decoded(path: Path) -> str:
    """What a reader sees of a file: of a notebook its cells and their outputs; markup as text, and without its tags."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        text = "\n".join(_shown(json.loads(text)))
    return "\n".join([text, html.unescape(text), html.unescape(re.sub(r"<[^<>]+>", "", text))])


def _shown(notebook: dict) -> Iterator[str]:
    for cell in notebook["cells"]:
        yield "".join(cell["source"])
        for output in cell.get("outputs", ()):
            for shown in (output.get("text", ""), *output.get("data", {}).values()):
                yield "".join(shown)


def borrowed(path: Path) -> set[str]:
    """The lines of sglang's in a file: those of the two central files anywhere, others where they are a whole line."""
    text = decoded(path)
    return {line for line in central() if line in text} | (all_lines() & set(_lines(text)))


@pytest.mark.parametrize("name", tracked())
def test_holds_no_line_of_sglang(name):
    assert borrowed(machine.ROOT / name) == set()


def test_there_is_something_to_compare_with():
    assert len(central()) > 1_000
    assert len(all_lines()) > 50_000


LINE = next(line for line in sorted(central()) if '"' in line and "<" not in line and len(line) > SHORTEST)


def _notebook(**cell: object) -> str:
    return json.dumps({"cells": [{"source": [], **cell}]})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.py", f"    {LINE}\n"),
        ("x.md", f"- `{LINE}`\n"),
        ("x.diff", f"+{LINE}\n"),
        ("x.svg", f"<text>{html.escape(LINE)}</text>"),
        ("source.ipynb", _notebook(source=[LINE])),
        ("stream.ipynb", _notebook(outputs=[{"text": ["one\n", LINE]}])),
        ("html.ipynb", _notebook(outputs=[{"data": {"text/html": [f"<b>{html.escape(LINE[:9])}</b>", LINE[9:]]}}])),
    ],
    ids=lambda text: text[:12],
)
def test_such_a_line_would_be_seen(name, text, tmp_path):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert borrowed(tmp_path / name) == {LINE}


def test_a_line_of_another_file_of_sglangs_would_be_seen(tmp_path):
    other = min(all_lines() - central())
    (tmp_path / "x.py").write_text(f"\t{other}\n", encoding="utf-8")
    assert other in borrowed(tmp_path / "x.py")
