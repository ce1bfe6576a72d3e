"""The notebooks run from top to bottom in JupyterLab, print what they printed before, and open and close alike."""

from __future__ import annotations

import contextlib
import copy
import itertools
import os
import re
import signal
import time
from pathlib import Path

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from jupyter_client import KernelManager

from repro.lab.lifted import small_shm
from repro.lab.refused import Refused
from repro.lab.teaching.inline import Picture
from repro.lab.teaching.transcript import numbered
from scripts import notebooks
from tests import machine
from tests.browser import CHROMIUM, check_what_is_kept, jupyterlab, needed, run_in_lab

COLORS = """[getComputedStyle(document.body).backgroundColor,
             getComputedStyle(document.querySelector('p, li')).color]"""
HEADS = ("You need", "It takes", "Afterwards", "minutes", "What to remember", "Next")
CHINESE_HEADS = ("你需要", "用时", "读完之后", "分钟", "要记住的", "下一步")
CUT = """[...document.querySelectorAll('body *')].filter(one => one.clientWidth && one.scrollWidth > one.clientWidth + 1
             && ['hidden', 'clip'].includes(getComputedStyle(one).overflowX)).map(one => one.className)"""
CODE = """[...new Set([...document.querySelectorAll('.highlight span')].map(one => getComputedStyle(one).color))]"""
PATHS = notebooks.paths()
IDS = [str(path.relative_to(notebooks.FOLDER)) for path in PATHS]


BOOTS = [pytest.mark.engine]  # what a notebook needs besides a long run
NEEDS = [pytest.param(path, marks=BOOTS if path.name.startswith(("00", "07")) else []) for path in PATHS]


@pytest.fixture(scope="module")
def run(request, tmp_path_factory):
    """What runs a notebook, each of them once: JupyterLab in a real browser, which first shows what the notebook keeps.
    On a machine without chromium, or with `-m "not browser"`: nbclient."""
    if CHROMIUM is None or "not browser" in request.config.option.markexpr:
        yield notebooks.executed
        return
    context = request.getfixturevalue("context")
    with jupyterlab(tmp_path_factory.mktemp("lab")) as lab:

        def in_the_browser(path: Path) -> nbformat.NotebookNode:
            with contextlib.closing(context.new_page()) as page:
                place = path.relative_to(notebooks.FOLDER).as_posix()
                return run_in_lab(page, lab, place, before=lambda: check_what_is_kept(page, path))

        yield lambda path: notebooks.executed(path, in_the_browser)


@pytest.mark.long
@pytest.mark.parametrize("path", NEEDS, ids=IDS)
def test_runs_and_says_what_it_said(path, run):
    if path.name.startswith("09"):
        try:
            small_shm.namespace(1)
        except Refused as refusal:
            pytest.skip(str(refusal))
    kept = notebooks.compared(nbformat.read(path, as_version=4))
    for old, new in zip(kept, notebooks.compared(copy.deepcopy(run(path))), strict=True):
        assert new == old


def test_a_cell_that_is_meant_to_fail_must_fail(tmp_path):
    cell = nbformat.v4.new_code_cell("1 + 1", metadata={"tags": ["raises-exception"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "quiet.ipynb")
    with pytest.raises(Exception, match="was to raise and did not"):
        notebooks.executed(tmp_path / "quiet.ipynb")


def test_an_error_that_is_not_expected_fails(tmp_path):
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")]), tmp_path / "loud.ipynb")
    with pytest.raises(Exception, match="ZeroDivisionError"):
        notebooks.executed(tmp_path / "loud.ipynb")


def test_expect_fails_where_nothing_is_raised():
    from repro.lab.teaching import show

    with pytest.raises(AssertionError, match="nothing was raised"), show.expect(ValueError):
        pass


def test_a_stale_output_is_noticed():
    notebook = nbformat.read(PATHS[-1], as_version=4)
    before = notebooks.compared(notebook)
    cell = next(cell for cell in notebook.cells if cell.get("outputs"))
    cell.outputs = [nbformat.v4.new_output("stream", text="something else\n")]
    assert notebooks.compared(notebook) != before


def test_of_a_measured_cell_only_the_code_is_held():
    def told(text, *tags):
        output = nbformat.v4.new_output("stream", text=text)
        cell = nbformat.v4.new_code_cell("price()", metadata={"tags": list(tags)}, outputs=[output])
        return notebooks.compared(nbformat.v4.new_notebook(cells=[cell]))

    assert told("1.5 MB", "measured") == told("2.5 MB", "measured") == ["measured\n"]
    assert told("1.5 MB") != told("2.5 MB")


def test_a_picture_is_kept_as_svg_alone_and_shown_in_the_page():
    """JupyterLab and the book put the HTML into the page; GitHub shows no SVG that stands in HTML."""
    shown = InteractiveShell.instance().display_formatter.format(Picture("<svg><title>a</title></svg>"))[0]
    assert shown["text/html"] == shown["image/svg+xml"]
    cell = nbformat.v4.new_code_cell("lanes()", outputs=[nbformat.v4.new_output("display_data", data=shown)])
    notebooks.kept(nbformat.v4.new_notebook(cells=[cell]))
    assert set(cell.outputs[0].data) == {"image/svg+xml", "text/plain"}


def test_names_are_compared_by_their_order():
    assert numbered("/psm_12ab, /sgl_shm_mm_7_0a_1b, /psm_12ab", {}) == "/psm_1, /sgl_shm_mm_2, /psm_1"
    assert numbered("/sgl_shm_mm_7_0a1b", kept := {}) == numbered("/sgl_shm_mm_7_0a1b", kept) == "/sgl_shm_mm_1"


def test_a_kernel_without_the_kit_says_so_in_one_line(tmp_path):
    """In a kernel that cannot import the kit, each notebook's first code cell fails with one line that says the way
    out, without a traceback."""
    notebooks_cells = [nbformat.read(path, as_version=4).cells for path in PATHS]
    firsts = [next(cell.source for cell in cells if cell.cell_type == "code") for cells in notebooks_cells]
    shell = "import sys; sys.modules.update(repro=None, fixed=None)\n"
    shell += "from IPython.core.interactiveshell import InteractiveShell\n"
    shell += f"for cell in {firsts!r}: assert not InteractiveShell.instance().run_cell(cell).success"
    run = machine.command("-c", shell, folder=tmp_path, IPYTHONDIR=str(tmp_path), NO_COLOR="1")
    assert run.returncode == 0, run.stderr
    told = (run.stdout + run.stderr).splitlines()
    assert len(told) == len(PATHS), told
    assert all("`make lab`" in line and "pip install --no-deps -e ." in line for line in told)


@pytest.mark.parametrize("path", PATHS, ids=IDS)
def test_is_tidy(path):
    notebook = nbformat.read(path, as_version=4)
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"/(home|root|work|tmp)/", text)
    assert "widgets" not in notebook.metadata
    assert path.stat().st_size < 1 << 20
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert len(cell.source.splitlines()) <= (16 if path.parent == notebooks.FOLDER else 20)
            assert all(output.output_type != "error" for output in cell.outputs)
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    assert sources[0].startswith("# ")
    if path.parent == notebooks.FOLDER:
        assert text.count("<details>") >= 2
        assert sum("assert" in cell.source for cell in notebook.cells if cell.cell_type == "code") >= 3


def departures(path: Path, cells: list[nbformat.NotebookNode]) -> list[str]:
    """In what these cells do not open and close as every notebook does."""
    need, takes, afterwards, minutes, remember, following = CHINESE_HEADS if notebooks.CHINESE in path.name else HEADS
    first, last = " ".join(cells[0].source.split()), cells[-1].source
    before_code = itertools.takewhile(lambda cell: cell.cell_type == "markdown", cells)
    paragraphs = "\n\n".join(cell.source for cell in before_code).split("\n\n")
    opening = next((k for k, text in enumerate(paragraphs) if text.startswith(f"**{need}**")), len(paragraphs))
    why = [text for text in paragraphs[opening + 1 :] if not text.startswith("#")]
    end = re.search(rf"^## {remember}\n\n1\. .*^(?:## {following}\n|\*\*{following}\W\*\*)(.*)", last, re.M | re.S)
    asked = {
        "number": first.startswith(f"# {path.name[:2]} · "),
        "heads": re.findall(r"\*\*(.+?)\*\*", first)[:3] == [need, takes, afterwards],
        "minutes": re.search(rf"\*\*{takes}\*\* \d+ {minutes}", first),
        "why": why or path.parent != notebooks.FOLDER,
        "end": end,
        "link": end and re.search(r"\]\([\w./#-]+\)", end[1]),
    }
    return [what for what, there in asked.items() if not there]


@pytest.mark.parametrize("path", PATHS, ids=IDS)
def test_opens_and_closes_as_all_do(path):
    assert departures(path, nbformat.read(path, as_version=4).cells) == []


@pytest.mark.parametrize(
    ("old", "new", "missing"),
    [
        ("# 01 · ", "# ", ["number"]),
        ("**You need**", "You need", ["heads", "why"]),
        ("**It takes** 20", "**It takes** twenty", ["minutes"]),
        ("\n\nA server died", "\nA server died", ["why"]),
        ("## What to remember", "## To remember", ["end", "link"]),
        ("## Next", "## Then", ["end", "link"]),
        ("](", "] (", ["link"]),
    ],
)
def test_another_opening_or_end_is_noticed(old, new, missing):
    path = notebooks.FOLDER / "01_read_the_crash.ipynb"
    cells = nbformat.read(path, as_version=4).cells
    for cell in (cells[0], cells[-1]):
        cell.source = cell.source.replace(old, new)
    cells = [cells[0], *(cell for cell in cells if cell.cell_type == "code"), cells[-1]]
    assert departures(path, cells) == missing


@pytest.mark.parametrize("path", PATHS, ids=IDS)
def test_links_lead_somewhere(path):
    prose = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown"]
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", "\n".join(prose)):
        assert (path.parent / target).exists(), target


def test_the_words_are_the_houses():
    """The vocabulary of DESIGN.md: no synonyms for its words."""
    wrong = re.compile(r"\b(shm block|shared memory block|prefill request|warmup|unlinks? the segment)\b")
    for path in [*PATHS, notebooks.FOLDER / "README.md", machine.ROOT / "README.md"]:
        assert not wrong.search(path.read_text(encoding="utf-8")), (
            path.name,
            wrong.search(path.read_text(encoding="utf-8")),
        )


@pytest.fixture(scope="module")
def book(tmp_path_factory, run):
    """The exported book."""
    folder = tmp_path_factory.mktemp("book")
    notebooks.book(folder, run)
    return folder


def test_the_book_is_whole_and_needs_no_network(book):
    pages = sorted(book.glob("*.html"))
    assert len(pages) == len(PATHS) + 1
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert "<script" not in text
        assert "</summary>\n</details>" not in text  # the answers stay folded
        assert not re.search(r'(src|href)="https?://[^"]+\.(js|css|woff2?)', text)
        for target in re.findall(r'href="([^"#:]+)"', text):
            assert (book / target).exists(), (page.name, target)
        assert not re.search(r'<img[^>]+"data:image/svg', text)  # it would tell nothing under the mouse
    assert "<title>scheduler, sample 1: open name 1 fails" in (book / "00_start_here.html").read_text(encoding="utf-8")
    assert 'class="said" role="status"' in (book / "04_two_expansion_points.html").read_text(encoding="utf-8")


@pytest.mark.browser
@needed
@pytest.mark.parametrize("width", [1920, 360])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_book_is_readable(book, browser, width, scheme):
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    for path in sorted(book.glob("*.html")):
        page.goto(path.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width + 1, path.name
        assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)"), path.name
        back, ink = page.evaluate(COLORS)
        assert abs(_light(back) - _light(ink)) > 120, (path.name, back, ink)
        assert (_light(back) > 128) == (scheme == "light"), path.name
        assert not page.evaluate(CUT), path.name
        assert all(_contrast(back, color) > 4.5 for color in page.evaluate(CODE)), path.name
        narrowest = page.evaluate(
            "Math.min(1, ...[...document.querySelectorAll('.jp-OutputArea-output > svg')]"
            ".map(one => one.getBoundingClientRect().width / one.viewBox.baseVal.width))"
        )
        assert narrowest > 0.95, path.name  # a picture is not made smaller than it can be read: it scrolls
    assert not [url for url in asked if not url.startswith(("file:", "data:"))]
    page.close()


def _contrast(one: str, other: str) -> float:
    """As WCAG has it: 1 for equal colours, 21 for black and white."""
    dark, bright = sorted(
        sum(
            weight * (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4)
            for weight, part in zip((0.2126, 0.7152, 0.0722), _parts(color), strict=True)
        )
        for color in (one, other)
    )
    return (bright + 0.05) / (dark + 0.05)


def _parts(color: str) -> list[float]:
    return [float(part) / 255 for part in re.findall(r"[\d.]+", color)[:3]]


def _light(color: str) -> float:
    return sum(map(float, re.findall(r"[\d.]+", color)[:3])) / 3


@pytest.mark.long
@pytest.mark.parametrize("kill", [os.kill, os.killpg])
def test_a_notebook_that_is_killed_half_way_leaves_nothing(kill, short_path):
    """A kernel is killed by SIGKILL in the middle of a run, when nobody has consumed the segments yet. The signal goes
    to the kernel alone, or to its process group, as Jupyter sends it."""
    before = machine.names()
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=str(notebooks.FOLDER), env=machine.surroundings(short_path))
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    client.execute("from repro.lab.lifted import experiment; experiment.run(n=1, ranks=2, late=3.0)")
    machine.wait_for(lambda: machine.names() - before, 60, "a segment")
    time.sleep(0.5)  # a name that is made, and not yet registered or sent, is left by every such kill
    kill(manager.provisioner.process.pid, signal.SIGKILL)
    machine.wait_for(lambda: not machine.names() - before, 20, "the segment to go")
    machine.wait_for(lambda: not list(short_path.glob("shm-kit-*")), 20, "the folders to go")
    client.stop_channels()
    manager.shutdown_kernel(now=True)
