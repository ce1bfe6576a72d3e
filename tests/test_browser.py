"""JupyterLab in a real browser: open every notebook, run two, step the stepper by mouse and by keyboard, be graded."""

from __future__ import annotations

import re
import secrets
import shutil
import socket
import subprocess
import sys
import urllib.request

import nbformat
import pytest

from scripts import notebooks
from tests import machine
from tests.browser import CHROMIUM, FLAGS, needed

pytestmark = needed
IDLE = "document.querySelector('.jp-Notebook-ExecutionIndicator')?.dataset.status === 'idle'"
TRUST = [sys.executable, "-m", "jupyter", "trust"]
DRAWN = """count => {
    const pictures = [...document.querySelectorAll('.jp-OutputArea-output img, .jp-OutputArea-output svg')]
    const boxes = pictures.map(picture => picture.getBoundingClientRect())
    return boxes.filter(box => box.width > 5 && box.height > 5).length >= count
}"""
WRONG = "def prepare(request):\n    import copy\n    return copy.copy(request)"
RIGHT = (
    "import copy\ndef prepare(request):\n    if request.mm_inputs:\n"
    "        request.mm_inputs = copy.copy(request.mm_inputs)\n"
    "        request.mm_inputs.mm_items = [copy.copy(item) for item in request.mm_inputs.mm_items]\n    return request"
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab on loopback, with a token, over a copy of the notebooks."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(machine.ROOT / "notebooks", folder / "notebooks")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(16)
    words = [sys.executable, "-m", "jupyterlab", "--no-browser", f"--port={port}", "--ip=127.0.0.1", "--allow-root"]
    words += [f"--IdentityProvider.token={token}", f"--notebook-dir={folder / 'notebooks'}", "--LabApp.news_url=None"]
    tracker = folder / "settings/@jupyterlab/notebook-extension/tracker.jupyterlab-settings"
    tracker.parent.mkdir(parents=True)
    tracker.write_text('{"windowingMode": "none"}', encoding="utf-8")  # else cells out of sight are not in the page
    places = {"JUPYTER_CONFIG_DIR": "config", "JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "w"}
    places["JUPYTER_DATA_DIR"] = "data"
    environment = machine.surroundings(folder, **{name: str(folder / place) for name, place in places.items()})
    trusted = [str(path) for path in folder.glob("notebooks/**/*.ipynb")]  # as `make lab` does
    subprocess.run([*TRUST, *trusted], env=environment, check=True, capture_output=True)
    with open(folder / "log", "w", encoding="utf-8") as log:
        server = subprocess.Popen(words, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            address = f"http://127.0.0.1:{port}"
            machine.wait_for(lambda: _answers(f"{address}/api?token={token}"), 60, "JupyterLab")
            yield lambda path: f"{address}/lab/tree/{path}?token={token}&reset"
        finally:
            server.terminate()
            server.wait(30)


def _answers(address: str) -> bool:
    try:
        return urllib.request.urlopen(address, timeout=2).status == 200
    except OSError:
        return False


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser):
    """A page of 1280 x 900."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(60_000)
    yield page
    page.close()


def open_notebook(page, address: str) -> None:
    page.goto(address)
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    page.wait_for_function(IDLE)
    page.wait_for_timeout(3000)  # until then Jupyter may ask which kernel to take
    if page.locator(".jp-Dialog .jp-mod-accept").count():
        page.click(".jp-Dialog .jp-mod-accept")
        page.wait_for_function(IDLE)


def run_all(page) -> None:
    page.click(".lm-MenuBar-itemLabel:text-is('Run')")
    page.click(".lm-Menu-itemLabel:text-is('Run All Cells')")


def wait_until_idle(page, seconds: int) -> None:
    page.wait_for_timeout(5000)
    page.wait_for_function(IDLE, timeout=1000 * seconds)


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
    open_notebook(page, lab("04_two_expansion_points.ipynb"))
    run_all(page)
    wait_until_idle(page, 150)
    marks = page.locator(".film > input")
    marks.first.wait_for(timeout=150_000)
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
    open_notebook(page, lab("05_the_fix.ipynb"))
    run_all(page)
    wait_until_idle(page, 150)
    for text, expected in ((WRONG, False), (RIGHT, True)):
        exercise = page.locator(".jp-CodeCell", has_text=re.compile(r"def prepare\(request")).first
        exercise.locator(".cm-content").click()
        page.keyboard.press("Control+A")
        page.keyboard.insert_text(text + "\n\nfrom fixed.exercises.grade import grade\ngrade(prepare).passed\n")
        page.keyboard.press("Control+Enter")
        wait_until_idle(page, 60)
        assert exercise.locator(".jp-OutputArea-output").last.inner_text().strip() == str(expected)


@pytest.mark.parametrize("path", notebooks.paths(), ids=lambda path: path.name)
def test_every_notebook_opens_with_what_it_keeps(lab, page, path):
    """All of its cells are there, no output is an error, each kept picture is drawn, and an answer unfolds."""
    cells = nbformat.read(path, as_version=4).cells
    kept = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
    page.goto(lab(path.relative_to(notebooks.FOLDER).as_posix()))
    page.wait_for_function(f"document.querySelectorAll('.jp-Notebook .jp-Cell').length === {len(cells)}")
    page.wait_for_function(DRAWN, arg=sum("image/svg+xml" in data for data in kept))
    assert page.locator("[data-mime-type='application/vnd.jupyter.stderr'], .jp-mod-error").count() == 0
    for folded in page.locator("details").all()[:1]:
        assert folded.get_attribute("open") is None
        folded.locator("summary").click()
        assert folded.get_attribute("open") is not None
