"""JupyterLab in a real browser: step the stepper by mouse and by keyboard, be graded.

(tests/test_notebooks.py opens and runs every notebook there.)"""

from __future__ import annotations

import contextlib
import re
import subprocess

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

from scripts import notebooks
from tests import machine
from tests.browser import check_what_is_kept, jupyterlab, needed, open_in_lab, run_all, run_in_lab

pytestmark = needed
TRANSLATED = [path for path in notebooks.paths() if notebooks.CHINESE in path.name]
WRONG = "def prepare(request):\n    import copy\n    return copy.copy(request)"
RIGHT = (
    "import copy\ndef prepare(request):\n    if request.mm_inputs:\n"
    "        request.mm_inputs = copy.copy(request.mm_inputs)\n"
    "        request.mm_inputs.mm_items = [copy.copy(item) for item in request.mm_inputs.mm_items]\n    return request"
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab over a copy of the notebooks."""
    with jupyterlab(tmp_path_factory.mktemp("lab")) as lab:
        yield lab


@pytest.fixture
def page(context):
    """A page of 1280 x 900."""
    with contextlib.closing(context.new_page()) as page:
        yield page


def test_make_lab_trusts_the_notebooks():
    """Else JupyterLab shows no kept picture before its cell is run."""
    run = subprocess.run(
        ["make", "--no-print-directory", "-n", "lab"],
        cwd=machine.ROOT,
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    trusting, opening = run.stdout.splitlines()[-2:]
    assert "jupyter trust" in trusting
    assert {str(path.relative_to(machine.ROOT)) for path in notebooks.paths()} <= set(trusting.split())
    assert "jupyter lab" in opening


def frame(page) -> tuple[int, str, str, str]:
    """What the player shows: the step's number, the line, the names, and the graph."""
    shown = page.locator(".film .page:visible").first
    graph = shown.locator("svg").count() and shown.locator("svg").first.inner_html()
    names = shown.locator(".names").inner_text()
    return int(shown.get_attribute("data-step")), shown.locator(".now").inner_text(), names, str(graph)


def test_the_stepper_by_mouse_and_by_keyboard(lab, page, tmp_path):
    """The player's output is not kept, so the notebook is run."""
    open_in_lab(page, lab, "04_two_expansion_points.ipynb")
    run_all(page)
    marks = page.locator(".film > input")
    marks.first.scroll_into_view_if_needed()
    assert page.locator("[data-mime-type='application/vnd.jupyter.stderr'] , .jp-mod-error").count() == 0
    assert page.locator(".jp-OutputArea-output > svg[role=img] > title").count() >= 2  # in the page: no images
    marks.first.focus()
    seen = [frame(page)]
    for _ in range(5):
        page.keyboard.press("ArrowRight")
        seen.append(frame(page))
    assert [number for number, *_ in seen] == [0, 1, 2, 3, 4, 5]
    assert len({line for _, line, *_ in seen}) >= 5
    for back in (4, 3):
        page.keyboard.press("ArrowLeft")
        assert frame(page) == seen[back]
    clicked = {}
    for place in (10, 20, 27, 34, 40, 34, 20, marks.count() - 1):  # now by mouse: forwards, back, to the far end
        marks.nth(place).click()
        now = frame(page)
        assert now[0] == place
        assert clicked.setdefault(place, now) == now
    assert len({now[1:] for now in clicked.values()}) == len(clicked)
    _, _, names, graph = frame(page)
    assert "name 1: gone" in names
    assert "mutated" in graph
    page.locator(".film label:visible", has_text="back").click()
    assert frame(page)[0] == marks.count() - 2
    page.screenshot(path=tmp_path / "stepper.png")


def test_the_grade_of_a_wrong_and_of_a_right_fix(lab, page):
    open_in_lab(page, lab, "05_the_fix.ipynb")
    for number, (text, expected) in enumerate(((WRONG, False), (RIGHT, True)), start=1):
        exercise = page.locator(".jp-CodeCell", has_text=re.compile(r"def prepare\(request")).first
        exercise.locator(".cm-content").click()
        page.keyboard.press("Control+A")
        page.keyboard.insert_text(text + "\n\nfrom fixed.exercises.grade import grade\ngrade(prepare).passed\n")
        page.keyboard.press("Control+Enter")
        exercise.locator(".jp-InputPrompt", has_text=f"[{number}]").wait_for()
        assert exercise.locator(".jp-OutputArea-output").last.inner_text().strip() == str(expected)


@pytest.mark.parametrize("path", TRANSLATED, ids=lambda path: path.name)
def test_a_translated_notebook_opens_with_what_it_keeps(lab, page, path):
    page.goto(lab.page(path.name))
    check_what_is_kept(page, path)


def test_a_cell_that_fails_in_the_browser_is_named(lab, page):
    """After a cell that is meant to fail, the cells go on. After another cell that fails, they do not."""
    cells = [nbformat.v4.new_code_cell(text) for text in ("1 / 0", "'between'", "[][0]", "'after'")]
    cells[0].metadata.tags = ["raises-exception"]
    file = lab.folder / "four_cells.ipynb"
    nbformat.write(notebooks.kept(nbformat.v4.new_notebook(cells=cells)), file)
    with pytest.raises(CellExecutionError, match=r"four_cells.ipynb, cell 2 failed: IndexError"):
        run_in_lab(page, lab, file.name)
    assert [bool(cell.outputs) for cell in nbformat.read(file, as_version=4).cells] == [True, True, True, False]
