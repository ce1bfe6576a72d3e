"""The browser that some tests look through, the mark for tests that need it, and JupyterLab in this browser."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

from scripts import notebooks
from tests import machine

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
RUN_LIMIT = 600  # seconds, for all cells of one notebook
STATUS = "#jp-main-statusbar :text-matches('\\\\| {}$')"
# The prompt of a cell is [ ] before its run, [*] while it waits or runs, and [1] afterwards. After a cell that fails,
# the cells below it go back to [ ].
NOTHING_WAITS = """() => {
    const prompts = [...document.querySelectorAll('.jp-Notebook .jp-CodeCell .jp-InputPrompt')]
    const texts = prompts.map(prompt => prompt.textContent)
    return texts.some(text => /[0-9]/.test(text)) && !texts.some(text => text.includes('*'))
}"""
DRAWN = """count => {
    const pictures = [...document.querySelectorAll('.jp-OutputArea-output img, .jp-OutputArea-output svg')]
    const boxes = pictures.map(picture => picture.getBoundingClientRect())
    return boxes.filter(box => box.width > 5 && box.height > 5).length >= count
}"""
SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},  # else cells out of sight are not in the page
    "docmanager-extension/plugin": {"autosave": False},
}
needed = pytest.mark.skipif(
    CHROMIUM is None and not os.environ.get("CI"), reason="no chromium here: apt-get install chromium"
)


@contextlib.contextmanager
def chromium() -> Iterator:
    """Headless Chromium, as playwright has it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@dataclass
class Lab:
    """A JupyterLab on loopback, with a token, over the notebooks in `folder`."""

    folder: Path
    address: str
    token: str

    def page(self, path: str) -> str:
        """The address at which the notebook `path` opens."""
        return f"{self.address}/lab/tree/{path}?token={self.token}&reset"

    def shut_down(self, path: str) -> None:
        """End the kernel of the notebook `path`, and wait for its end."""
        for session in json.load(self._ask("GET", "sessions")):
            if session["path"] == path:
                self._ask("DELETE", f"sessions/{session['id']}")

    def answers(self) -> bool:
        """Whether the server is there."""
        try:
            return self._ask("GET", "status").status == 200
        except OSError:
            return False

    def _ask(self, method: str, what: str):
        headers = {"Authorization": f"token {self.token}"}
        request = urllib.request.Request(f"{self.address}/api/{what}", headers=headers, method=method)
        return urllib.request.urlopen(request, timeout=60)


@contextlib.contextmanager
def jupyterlab(folder: Path) -> Iterator[Lab]:
    """A JupyterLab over a copy of the notebooks in `folder`. Beside the copy are links to what is beside the notebooks
    in the repository. The kernels have the TMPDIR and the /dev/shm of this process."""
    copy = folder / "repository/notebooks"
    shutil.copytree(machine.ROOT / "notebooks", copy)
    for beside in machine.ROOT.glob("[!.]*"):
        if beside.name != copy.name:
            (copy.parent / beside.name).symlink_to(beside)
    for name, values in SETTINGS.items():
        settings = folder / f"settings/@jupyterlab/{name}.jupyterlab-settings"
        settings.parent.mkdir(parents=True)
        settings.write_text(json.dumps(values), encoding="utf-8")
    places = {"JUPYTER_CONFIG_DIR": "config", "JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "w"}
    places["JUPYTER_DATA_DIR"] = "data"
    environment = machine.surroundings(None, **{name: str(folder / place) for name, place in places.items()})
    trusted = map(str, copy.rglob("*.ipynb"))  # as `make lab` does
    trust = [sys.executable, "-m", "jupyter", "trust", *trusted]
    subprocess.run(trust, env=environment, check=True, capture_output=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    lab = Lab(copy, f"http://127.0.0.1:{port}", secrets.token_hex(16))
    words = [sys.executable, "-m", "jupyterlab", "--no-browser", f"--port={port}", "--ip=127.0.0.1", "--allow-root"]
    words += [f"--IdentityProvider.token={lab.token}", f"--notebook-dir={copy}", "--LabApp.news_url=None"]
    with open(folder / "log", "w", encoding="utf-8") as log:
        server = subprocess.Popen(words, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            machine.wait_for(lab.answers, 60, "JupyterLab")
            yield lab
        finally:
            server.terminate()
            server.wait(30)


def open_in_lab(page, lab: Lab, path: str) -> None:
    """Open the notebook `path`, and wait until its kernel is ready."""
    page.goto(lab.page(path))
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    wait_until_idle(page, 60)


def check_what_is_kept(page, path: Path) -> None:
    """Of the notebook at `path`, which has just been opened: all cells are there, no output is an error, each kept
    picture is drawn, and an answer unfolds."""
    cells = nbformat.read(path, as_version=4).cells
    kept = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
    page.wait_for_function(f"document.querySelectorAll('.jp-Notebook .jp-Cell').length === {len(cells)}")
    page.wait_for_function(DRAWN, arg=sum("image/svg+xml" in data for data in kept))
    assert page.locator("[data-mime-type='application/vnd.jupyter.stderr'], .jp-mod-error").count() == 0
    for folded in page.locator("details").all()[:1]:
        assert folded.get_attribute("open") is None
        folded.locator("summary").click()
        assert folded.get_attribute("open") is not None


def wait_until_idle(page, seconds: float) -> None:
    """Wait until the status bar says that the kernel is idle."""
    page.locator(STATUS.format("Idle")).wait_for(timeout=1000 * seconds)


def run_all(page) -> None:
    """Run all cells of the open notebook, and wait for the end of the last of them, or of one that fails."""
    page.click(".lm-MenuBar-itemLabel:text-is('Run')")
    page.click(".lm-Menu-itemLabel:text-is('Run All Cells')")
    page.wait_for_function(NOTHING_WAITS, timeout=1000 * RUN_LIMIT, polling=200)
    wait_until_idle(page, 60)


def run_in_lab(page, lab: Lab, path: str, before: Callable[[], None] = lambda: None) -> NotebookNode:
    """Open the notebook `path` of `lab` in the browser, call `before`, run all cells, save, end the kernel, and return
    what the file then holds. Raises CellExecutionError as `notebooks.checked` does."""
    try:
        open_in_lab(page, lab, path)
        before()
        run_all(page)
        with page.expect_response(lambda answer: answer.request.method == "PUT" and "/api/contents/" in answer.url):
            page.keyboard.press("Control+s")
    finally:
        lab.shut_down(path)
    return notebooks.checked(nbformat.read(lab.folder / path, as_version=4), path)
