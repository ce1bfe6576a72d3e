"""Two views of the stepper's steps: a player, which shows sglang's lines, and a filmstrip, which does not. Neither
needs a kernel or a script, so a reader can also step through a saved page."""

from __future__ import annotations

import html
import itertools
import re
import textwrap
from pathlib import Path

from IPython.display import HTML

from repro.lab import pictures
from repro.lab.teaching.inline import Picture
from repro.lab.teaching.stepper import Step, Walk
from repro.lab.upstream.expansion import copy_lines

AROUND = 6  # lines of code that a frame shows before and after the line that is about to run
SENDS, AWAITS = "_send_one_request(", "_wait_one_response("  # methods that `_handle_batch_request` calls
COLUMNS, TILE = 2, 440  # of the filmstrip: the number of its columns, and the width of a tile in pixels
STYLE = """
.film {font-size: 13px}
.film > input {margin: 2px 1px}
.film > .said {margin: 4px 0}
.film > .pages > *, .film > .said > * {display: none}
.film .page {grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 12px}
.film .page > div {min-width: 0}
.film .page > :first-child {grid-column: 1 / -1}
.film .turn {display: inline-block; padding: 2px 10px; margin: 0 6px 6px 0; border: 1px solid #999; cursor: pointer}
.film pre {margin: 0 0 6px; padding: 6px; border: 1px solid #999; font-size: 11.5px; line-height: 1.4; overflow-x: auto}
.film pre .now {background: #ffe08a; color: #111; font-weight: bold}
.film table {border-collapse: collapse; margin: 4px 0}
.film tr, .film td, .film th {padding: 1px 10px 1px 0; line-height: 1.3; text-align: left; background: none}
"""
SHOWN = """
.{film} > input:nth-of-type({k}):checked ~ .said > :nth-child({k}) {{display: inline}}
.{film} > input:nth-of-type({k}):checked ~ .pages > :nth-child({k}) {{display: grid}}
"""
NOT_JUPYTERS = 'data-lm-suppress-shortcuts="true"'  # otherwise JupyterLab uses the arrow keys itself
_numbers = itertools.count(1)


def player(walk: Walk) -> HTML:
    """All steps of a walk. A row has one mark for each step, and the arrow keys go from mark to mark. Below it is the
    frame of the chosen step: code, /dev/shm, and the object graph. A screen reader announces the step."""
    film = f"film-{next(_numbers)}"
    pages = frames(walk)
    said = [html.escape(_said(step, len(pages))) for step in walk.steps]
    marks = "".join(
        f'<input type="radio" name="{film}" id="{film}-{k}" aria-label="{words}" {NOT_JUPYTERS}{" checked" * (k == 0)}>'
        for k, words in enumerate(said)
    )
    turned = "".join(
        f'<div class="page" data-step="{k}"><div>{_turns(film, k, len(pages))}</div>{page}</div>'
        for k, page in enumerate(pages)
    )
    style = STYLE + "".join(SHOWN.format(film=film, k=k + 1) for k in range(len(pages)))
    return HTML(
        f'<div class="film {film}" role="group" aria-label="the steps, one after the other">'
        f"<style>{style}</style>{marks}"
        f'<p class="said" role="status" aria-live="polite">{"".join(f"<span>{words}</span>" for words in said)}</p>'
        f'<div class="pages">{turned}</div></div>'
    )


def _said(step: Step, count: int) -> str:
    """The words that a screen reader announces for a step."""
    return "; ".join([f"step {step.number + 1} of {count}, line {step.line}", *_name_lines(step)])


def _turns(film: str, k: int, count: int) -> str:
    """Buttons to the step before and to the next one."""
    ways = ((k - 1, "back"), (k + 1, "next"))
    return "".join(f'<label class="turn" for="{film}-{to}">{way}</label>' for to, way in ways if 0 <= to < count)


def frames(walk: Walk) -> list[str]:
    """One piece of HTML for each step: the code around the line that is about to run, the names in /dev/shm, and the
    graph."""
    lines = Path(walk.path).read_text(encoding="utf-8").splitlines() if walk.steps else []
    drawn: dict[str, str] = {}
    return [_frame(step, lines, drawn) for step in walk.steps]


def filmstrip(walk: Walk, title: str = "") -> Picture:
    """The `moments` of a walk as one SVG, in two columns. Each tile has the line's number, the names in /dev/shm, and
    the object graph. The strip shows no line of upstream's code, so it may be kept in this repository."""
    found = moments(walk)
    tiles = [_tile(number, caption, step) for number, (caption, step) in enumerate(found, start=1)]
    height = max(high for _, high in tiles)
    placed = "".join(
        f'<g transform="translate({16 + k % COLUMNS * TILE} {48 + k // COLUMNS * height:.0f})">{drawing}</g>'
        for k, (drawing, _) in enumerate(tiles)
    )
    width, bottom = COLUMNS * TILE + 16, 48 + -(-len(tiles) // COLUMNS) * height
    told = "; ".join(f"{caption}: {', '.join(_name_lines(step))}" for caption, step in found)
    return Picture(
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{width}" height="{bottom:.0f}" '
        f'viewBox="0 0 {width} {bottom:.0f}" style="max-width:100%;height:auto" '
        f'font-family="Helvetica, Arial, sans-serif"><title>{html.escape(title)}</title>'
        f'<desc>{html.escape(told)}</desc><rect width="100%" height="100%" fill="#ffffff"/>'
        f'<text x="16" y="26" font-size="17" font-weight="bold">{html.escape(title)}</text>{placed}</svg>'
    )


def _tile(number: int, caption: str, step: Step) -> tuple[str, float]:
    """The drawing of one moment, and its height in pixels."""
    inner, wide, high = _nested(pictures.graph(step.roots, mutated=step.mutated, title="\u00a0"))
    scale = min(1.0, (TILE - 24) / wide)
    state = ", ".join([f"line {step.line}", *_name_lines(step)])
    drawing = (
        f'<text y="16" font-size="15" font-weight="bold">{number}. {html.escape(caption)}</text>'
        f'<text y="36" font-size="13">{html.escape(state)}</text>'
        f'<svg y="40" width="{wide * scale:.0f}" height="{high * scale:.0f}" viewBox="0 0 {wide:.0f} {high:.0f}">'
        f"{inner}</svg>"
    )
    return drawing, high * scale + 60


def moments(walk: Walk) -> list[tuple[str, Step]]:
    """The steps at which a request was just copied, is about to be sent, or was just answered, each with a caption. An
    answer counts when the tokenizer goes on after it, so every run of the same request gives the same moments."""
    copies = copy_lines(Path(walk.path).read_text(encoding="utf-8")) if walk.steps else set()
    labels = walk.run.labels
    found: list[tuple[str, Step]] = []
    sent = 0
    for before, step in zip(walk.steps, walk.steps[1:], strict=False):
        if SENDS in before.code and step.line != before.line:
            sent += 1
        at_hand = labels[min(sent, len(labels) - 1)]
        if before.line in copies and step.line != before.line:
            found.append((f"{at_hand}: copied", step))
        elif SENDS in step.code and step.line != before.line:
            found.append((f"{at_hand}: about to be sent", step))
        elif AWAITS in before.code and "await" in before.code and sent:
            found.append((f"{labels[sent - 1]}: answered", step))
    return found


def _frame(step: Step, lines: list[str], drawn: dict[str, str]) -> str:
    first = max(0, step.line - 1 - AROUND)
    excerpt = textwrap.dedent("\n".join(lines[first : step.line + AROUND])).split("\n")
    code = "\n".join(
        f'<span class="{"now" if number == step.line else "line"}">{number:5} {html.escape(text)}</span>'
        for number, text in enumerate(excerpt, start=first + 1)
    )
    key = pictures.graph_text(step.roots, step.mutated) if step.roots else ""
    if key not in drawn:
        drawn[key] = pictures.graph(step.roots, mutated=step.mutated, title="\u00a0") if step.roots else ""
    names = "".join(f"<tr><td>{html.escape(line)}</td></tr>" for line in _name_lines(step))
    values = "".join(f"<tr><td>{k}</td><td>{html.escape(v)}</td></tr>" for k, v in step.variables.items())
    return (
        f'<div><pre>{code}</pre><table class="names"><tr><th>/dev/shm</th></tr>{names}</table>'
        f"<table>{values}</table></div><div>{drawn[key]}</div>"
    )


def _name_lines(step: Step) -> list[str]:
    """One line for each name. The names are numbered, because they differ from run to run."""
    rows = [f"name {k}: {'named' if there else 'gone'}" for k, there in enumerate(step.names.values(), start=1)]
    return rows or ["no names yet"]


def _nested(svg: str) -> tuple[str, float, float]:
    """The content of an SVG, without its <title> and <desc>, and its width and height."""
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    body = svg[svg.index(">", svg.index("<svg")) + 1 : svg.rindex("</svg>")]
    body = re.sub(r"<(title|desc)>.*?</\1>", "", body, flags=re.DOTALL)
    return body, float(box[1]), float(box[2])
