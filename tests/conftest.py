"""The surroundings of the suite, and the runs that several tests use. Each run is made once."""

from __future__ import annotations

import atexit
import json
import os
import re
import shutil
import signal
import tempfile
from argparse import Namespace
from pathlib import Path

import pytest

from tests import own_shm

PRIVATE = not os.environ.get("KIT_TESTS_SHARE_SHM") and own_shm.enter()  # first: before anything looks at /dev/shm
FOLDER = tempfile.mkdtemp(prefix="kit-")  # for the temporary files of this run of the suite alone
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)  # first: so multiprocessing tidies up before that

from repro.lab import engine  # noqa: E402
from repro.lab.engine import launcher  # noqa: E402
from repro.lab.engine.host import ADDRESS, Host  # noqa: E402
from repro.lab.evidence import recorder  # noqa: E402
from repro.lab.lifted.pool import pool  # noqa: E402
from repro.lab.refused import Refused  # noqa: E402
from repro.lab.upstream import source  # noqa: E402
from tests import machine, scenes  # noqa: E402
from tests.browser import chromium  # noqa: E402

SURVIVABLE = ["n = 1", "another image", "text only, n = 4"]
BOOTS = {
    "host",
    "released",
    "fixed_engine",
    "demo",
    "repro_json",
    "spawned",
    "with_it",
    "switched_off",
    "other_release",
    "cut_off",
    "served",
}
BROWSES = {"page", "lab"}
LASTS = {"whole", "built", "book", "examined", "rows", "outcomes"}
ENGINE_FILES = {f"test_{name}" for name in "engine host hotfix provenance readme release server stop upstream".split()}
OTHER_RELEASE = re.compile(r"0\.5\.\d+(\.post\d+)?(?<!0\.5\.12\.post1)")
ORDER = ["engine", "test_notebooks", "test_clinic", "test_designs", "test_browser"]


def pytest_configure(config):
    """Temporary files go into the suite's own folder; so does a ledger of the names that it makes, if it needs one. A
    suite that a script has started with `&` ignores SIGINT, and so would its children, which tests interrupt."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    tempfile.tempdir = os.environ["TMPDIR"] = FOLDER
    if not PRIVATE:
        os.environ[recorder.LEDGER] = f"{FOLDER}/ledger"
        Path(os.environ[recorder.LEDGER]).touch()
    os.environ.pop(ADDRESS, None)


def pytest_collection_modifyitems(items):
    """Tests that need an engine, a browser or a long run are marked. What takes longest comes first, so that two
    workers end at about the same time."""
    for item in items:
        if BOOTS & set(item.fixturenames):
            item.add_marker("engine")
        if BROWSES & set(item.fixturenames):
            item.add_marker("browser")
        if LASTS & set(item.fixturenames):
            item.add_marker("long")
        if any(OTHER_RELEASE.fullmatch(str(value)) for value in _parameters(item)):
            item.add_marker("network")
    items.sort(key=lambda item: ORDER.index(run_of(item.nodeid)) if run_of(item.nodeid) in ORDER else len(ORDER))


def _parameters(item) -> list[object]:
    return list(item.callspec.params.values()) if hasattr(item, "callspec") else []


def run_of(nodeid: str) -> str:
    """The group of tests that share runs: the tests of one file. All tests that boot engines are one group."""
    file = Path(nodeid.partition("::")[0]).stem
    return "engine" if file in ENGINE_FILES else file


def pytest_xdist_make_scheduler(config, log):
    """Tests that share runs go to one worker, so that each run is made once."""
    from xdist.scheduler import LoadScopeScheduling

    class ByRun(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return run_of(nodeid)

    return ByRun(config, log)


@pytest.fixture(autouse=True)
def nothing_left_in_shm():
    """Whatever a test does, /dev/shm holds no new names afterwards."""
    before = machine.names()
    yield
    assert machine.left_since(before) == set()


@pytest.fixture(scope="session")
def registry():
    """A package registry that answers, or wheels in the cache. Without both, the tests that need them are skipped with
    a reason. In CI they fail."""
    try:
        source.read("0.5.13", source.MM_UTILS)
    except Refused as refusal:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"needs other releases' wheels: {refusal}")


@pytest.fixture(autouse=True)
def needs_a_registry(request):
    """Tests marked `network` need `registry`."""
    if request.node.get_closest_marker("network"):
        request.getfixturevalue("registry")


@pytest.fixture
def short_path() -> Path:
    """A temporary folder whose path is short, whatever the test is called: sockets can be in it."""
    folder = Path(tempfile.mkdtemp(dir=FOLDER))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True, scope="session")
def no_temporary_folder_left():
    """Whatever the suite does, no temporary folder of the kit is left at its end."""
    yield
    pool.close()
    machine.wait_for(lambda: not list(Path(FOLDER).glob("shm-kit-*")), 5, f"folders to go, of {os.listdir(FOLDER)}")


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium."""
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def context(browser):
    """One cache for all pages, so that JupyterLab is loaded once."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(60_000)
    yield context
    context.close()


@pytest.fixture(scope="session")
def host(request):
    """A process that has imported sglang, for all the engines of this session. `make check` has none."""
    assert "not engine" not in request.config.option.markexpr, "a test that boots an engine is not marked so"
    with Host(engine.environment("tiny", engine.CPU)) as host:
        yield host


@pytest.fixture(scope="session")
def engine_verdict(host):
    """The verdict of one engine on a list of cases."""

    def run(cases: list[str], *, fixed: bool, spawn: bool = False):
        environment = engine.environment("tiny", engine.CPU, spawn=spawn)
        return launcher.run(scenes.engine_cases, Namespace(cases=cases, fixed=fixed), environment=environment, on=host)

    return run


@pytest.fixture(scope="session")
def released(engine_verdict):
    """For a case that crashes: the released engine on the cases that it survives, and then on this case."""
    verdicts = {}

    def run(case: str):
        if case not in verdicts:
            verdicts[case] = engine_verdict([*SURVIVABLE, case], fixed=False)
        return verdicts[case]

    return run


@pytest.fixture(scope="session")
def fixed_engine(engine_verdict):
    """The fixed engine on every case."""
    return engine_verdict(list(scenes.CASES), fixed=True)


@pytest.fixture(scope="session")
def spawned(engine_verdict):
    """The released engine, its processes started as sglang starts them: n = 1, then n = 2."""
    return engine_verdict(["n = 1", "n = 2"], fixed=False, spawn=True)


@pytest.fixture(scope="session")
def demo():
    """`make demo`'s command: what it prints for `repro/crash.py` and for `fixed/crash.py`, and its status."""
    run = machine.command("-m", "repro.lab.engine.host", "repro/crash.py", "fixed/crash.py")
    told = [part.rstrip("\n") + "\n" for part in re.split(r"^\$ python \S+\n", run.stdout, flags=re.MULTILINE)]
    return run, dict(zip(("repro", "fixed"), told[1:], strict=True))


@pytest.fixture(scope="session")
def repro_json(tmp_path_factory):
    """`python repro/crash.py --n 8 --json` with an image and a log: its verdict, status, stderr, and its log."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("json")
    Image.new("RGB", (112, 112), "navy").save(folder / "navy.png")
    log = folder / "sglang.log"
    run = machine.command("repro/crash.py", "--n", 8, "--image", folder / "navy.png", "--json", "--log", log)
    return json.loads(run.stdout), run, log.read_text(encoding="utf-8")
