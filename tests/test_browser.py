"""JupyterLab in a real browser: run a notebook, step the stepper by mouse and by keyboard, be graded."""

from __future__ import annotations

import re
import secrets
import shutil
import socket
import subprocess
import sys
import urllib.request

import pytest

from tests import machine
from tests.browser import CHROMIUM, FLAGS, needed

pytestmark = needed
IDLE = "document.querySelector('.jp-Notebook-ExecutionIndicator')?.dataset.status === 'idle'"
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
    environment = machine.surroundings(folder, **{name: str(folder / place) for name, place in places.items()})
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


def frame(page) -> tuple[str, str, str, str]:
    """What the stepper shows: its number, the line, the names, and the graph."""
    film = page.locator(".film").first
    names = film.locator(".names").inner_text()
    graph = film.locator("svg").count() and film.locator("svg").first.inner_html()
    return film.get_attribute("data-step"), film.locator(".now").inner_text(), names, str(graph)


def test_the_stepper_by_mouse_and_by_keyboard(lab, page, tmp_path):
    open_notebook(page, lab("04_two_expansion_points.ipynb"))
    run_all(page)
    wait_until_idle(page, 150)
    page.locator(".film").first.scroll_into_view_if_needed()
    assert page.locator("[data-mime-type='application/vnd.jupyter.stderr'] , .jp-mod-error").count() == 0
    handle = page.locator(".noUi-handle").first
    handle.focus()
    seen = [frame(page)]
    for _ in range(5):
        handle.press("ArrowRight")
        page.wait_for_function(f"document.querySelector('.film').dataset.step === '{len(seen)}'")
        seen.append(frame(page))
    assert [int(number) for number, *_ in seen] == [0, 1, 2, 3, 4, 5]
    assert len({line for _, line, *_ in seen}) >= 5
    for back in (4, 3):
        handle.press("ArrowLeft")
        page.wait_for_function(f"document.querySelector('.film').dataset.step === '{back}'")
        assert frame(page) == seen[back]
    box = page.locator(".noUi-target").first.bounding_box()  # now by mouse: five forwards, two back, to the far end
    clicked = {}
    for place in (0.3, 0.45, 0.6, 0.75, 0.9, 0.75, 0.45, 1.0):
        shown = frame(page)[0]
        page.mouse.click(box["x"] + place * (box["width"] - 4) + 1, box["y"] + box["height"] / 2)
        page.wait_for_function(f"document.querySelector('.film').dataset.step !== '{shown}'")
        page.wait_for_timeout(500)  # the handle glides
        now = frame(page)
        assert clicked.setdefault(place, now) == now
    steps = [int(now[0]) for _, now in sorted(clicked.items())]
    assert steps == sorted(set(steps))
    assert len({now[1:] for now in clicked.values()}) == len(clicked)
    _, _, names, graph = frame(page)
    assert "name 1: gone" in names
    assert "mutated" in graph
    page.screenshot(path=tmp_path / "stepper.png")


def test_the_grade_of_a_wrong_and_of_a_right_fix(lab, page):
    open_notebook(page, lab("05_the_fix.ipynb"))
    run_all(page)
    wait_until_idle(page, 150)
    for text, expected in ((WRONG, False), (RIGHT, True)):
        exercise = page.locator(".jp-CodeCell", has_text=re.compile(r"def prepare\(request")).first
        exercise.locator(".cm-content").click()
        page.keyboard.press("Control+A")
        page.keyboard.insert_text(text + "\n\nfrom fixed.clinic.exercise import grade\ngrade(prepare).passed\n")
        page.keyboard.press("Control+Enter")
        wait_until_idle(page, 60)
        assert exercise.locator(".jp-OutputArea-output").last.inner_text().strip() == str(expected)
