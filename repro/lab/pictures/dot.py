"""A graph in dot's language, laid out by Graphviz's dot."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile

from repro.lab.pictures.svg import EDGE, MONO
from repro.lab.refused import Refused

SCALE = 1.15  # dot's drawing is enlarged by this factor, so that its letters are as large as in other pictures
NONE = "no dot on this machine; `pip install 'pygraphviz>=2'` brings one, without root"
WHEEL = (  # the wheel has dot as a library. It runs in a process of its own, so its crash does not end this process
    "import sys, pygraphviz; graph = pygraphviz.AGraph(string=sys.stdin.buffer.read().decode()); "
    "sys.stdout.buffer.write(graph.draw(format='svg', prog='dot'))"
)


def drawing(source: str) -> tuple[float, float, str]:
    """Width, height and inner SVG of the graph that `source` describes. Raises Refused if dot fails."""
    svg = _run(source)
    width, height = (float(side) for side in re.search(r'viewBox="\S+ \S+ (\S+) (\S+)"', svg).groups())
    inner = svg[svg.index("<g ") : svg.rindex("</svg>")]
    for noise in (r"<!--.*?-->\n?", r"<title>.*?</title>\n?", r' (?:id|class|font-family)="[^"]*"'):
        inner = re.sub(noise, "", inner, flags=re.DOTALL)
    inner = f'<g transform="translate({EDGE} 4) scale({SCALE})" font-family="{MONO}">\n{inner.rstrip()}\n</g>'
    return width * SCALE + 2 * EDGE, height * SCALE + 4 + EDGE, inner


def path() -> str | None:
    """The file of the dot that draws: pygraphviz's if it is installed, else the dot on PATH. None if there is none."""
    wheel = importlib.util.find_spec("pygraphviz")
    return wheel.origin if wheel else shutil.which("dot")


def _run(source: str) -> str:
    """The SVG of the graph that `source` describes. Raises Refused, with dot's last line, if dot fails."""
    dot = path()
    command = [sys.executable, "-c", WHEEL] if importlib.util.find_spec("pygraphviz") else [dot, "-Tsvg"]
    with tempfile.NamedTemporaryFile("w", suffix=".conf", encoding="utf-8") as fonts:
        fonts.write("<fontconfig></fontconfig>")  # without fonts, dot takes the same widths on every machine
        fonts.flush()
        env = {**os.environ, "FONTCONFIG_FILE": fonts.name}
        done = subprocess.run(command, input=source, capture_output=True, encoding="utf-8", env=env, timeout=60)
    if done.returncode or "<svg" not in done.stdout:
        last = (done.stderr.strip().splitlines() or ["nothing said"])[-1]
        raise Refused(f"{dot} drew nothing ({last})", "`pip install 'pygraphviz>=2'` brings one that does")
    return done.stdout
