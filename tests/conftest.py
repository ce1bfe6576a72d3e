"""The surroundings of the suite, and the runs that several tests look at: each is made once."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from argparse import Namespace
from pathlib import Path

import pytest

from tests import own_shm

PRIVATE = not os.environ.get("KIT_TESTS_SHARE_SHM") and own_shm.enter()  # first: before anything looks at /dev/shm

from repro.lab import engine, guard, recorder  # noqa: E402
from repro.lab.host import ADDRESS, Host  # noqa: E402
from tests import machine, scenes  # noqa: E402

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
}
BROWSES = {"page", "lab"}


def pytest_configure(config):
    """A temporary folder for this run of the suite alone, and a ledger of the names that it makes."""
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    config.kit_folder = tempfile.mkdtemp(prefix="kit-")
    tempfile.tempdir = os.environ["TMPDIR"] = config.kit_folder
    if not PRIVATE:
        os.environ[recorder.LEDGER] = f"{config.kit_folder}/ledger"
        Path(os.environ[recorder.LEDGER]).touch()
    os.environ.pop(ADDRESS, None)


def pytest_unconfigure(config):
    """What the tests have left in their temporary folder is a fault of the kit's."""
    shutil.rmtree(config.kit_folder, ignore_errors=True)


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items):
    """Tests that need an engine are marked, and run in one process, as do those of one file: they share their runs."""
    for item in items:
        if BOOTS & set(item.fixturenames):
            item.add_marker("engine")
        if BROWSES & set(item.fixturenames):
            item.add_marker("browser")
        boots = item.get_closest_marker("engine")
        item.add_marker(pytest.mark.xdist_group("engine" if boots else item.path.stem))


@pytest.fixture(autouse=True)
def nothing_left_in_shm():
    """Whatever a test does, /dev/shm holds no new names afterwards."""
    before = machine.names()
    yield
    assert machine.left_since(before) == set()


@pytest.fixture(autouse=True, scope="session")
def no_temporary_folder_left(pytestconfig):
    """Whatever the suite does, no temporary folder of the kit is left at its end."""
    yield
    place = Path(pytestconfig.kit_folder)
    machine.wait_for(lambda: not list(place.glob("shm-kit-*")), 5, f"the kit's folders in {os.listdir(place)} to go")


@pytest.fixture(scope="session")
def host():
    """A process that has imported sglang, for all the engines of this session."""
    with Host(engine.environment("tiny", engine.CPU)) as host:
        yield host


@pytest.fixture(scope="session")
def engine_verdict(host):
    """The verdict of one engine on a list of cases."""

    def run(cases: list[str], *, fixed: bool, spawn: bool = False):
        environment = engine.environment("tiny", engine.CPU, spawn=spawn)
        return guard.run(scenes.engine_cases, Namespace(cases=cases, fixed=fixed), environment=environment, on=host)

    return run


@pytest.fixture(scope="session")
def released(engine_verdict):
    """The released engine on what it survives, and then on one case that it dies of; by that case."""
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
    run = machine.command("-m", "repro.lab.host", "repro/crash.py", "fixed/crash.py")
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
    return json.loads(run.stdout), run, log.read_text()
