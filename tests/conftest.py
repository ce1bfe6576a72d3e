"""The runs that several tests look at: each is made once."""

from __future__ import annotations

import json
from argparse import Namespace

import pytest

from repro.lab import engine, guard
from tests import machine, scenes

SURVIVABLE = ["n = 1", "another image", "text only, n = 4"]


@pytest.fixture(autouse=True)
def nothing_left_in_shm():
    """Whatever a test does, /dev/shm holds no new names afterwards."""
    before = machine.names()
    yield
    assert machine.left_since(before) == set()


def engine_verdict(cases: list[str], *, fixed: bool):
    """The verdict of one engine on all of `cases`."""
    return guard.run(
        scenes.engine_cases, Namespace(cases=cases, fixed=fixed), environment=engine.environment("tiny", engine.CPU)
    )


@pytest.fixture(scope="session")
def repro_two_prompts(tmp_path_factory):
    """The released engine: what it survives, then two prompts with an image each and n = 2."""
    return engine_verdict([*SURVIVABLE, "two prompts, n = 2"], fixed=False)


@pytest.fixture(scope="session")
def fixed_engine():
    """The fixed engine on every case."""
    return engine_verdict(list(scenes.CASES), fixed=True)


@pytest.fixture(scope="session")
def repro_run():
    """`python repro/crash.py`, as README shows it."""
    return machine.command("repro/crash.py")


@pytest.fixture(scope="session")
def fixed_run():
    """`python fixed/crash.py`, as README shows it."""
    return machine.command("fixed/crash.py")


@pytest.fixture(scope="session")
def repro_json(tmp_path_factory):
    """`python repro/crash.py --n 8 --json` with an image and a log: its verdict, status, stderr, and its log."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("json")
    Image.new("RGB", (112, 112), "navy").save(folder / "navy.png")
    log = folder / "sglang.log"
    run = machine.command("repro/crash.py", "--n", 8, "--image", folder / "navy.png", "--json", "--log", log)
    return json.loads(run.stdout), run, log.read_text()
