"""The hotfix, installed from its folder as an operator installs it. With it, the released engine gives the answers of
upstream's fix, and leaves no name, not even when its scheduler is killed. If it is switched off, it changes nothing. On
other releases it does nothing. A typo in its setting stops the server before it starts. This kit alone never activates
it.
"""

from __future__ import annotations

import importlib
import json
from argparse import Namespace
from dataclasses import dataclass

import pytest

from fixed import install
from repro.lab import engine
from repro.lab.engine import launcher
from repro.lab.engine.host import Host
from repro.lab.evidence.verdict import Verdict
from repro.lab.releases import ALL, LAST
from repro.lab.upstream import source
from tests import machine, scenes

GROUP = "sglang.srt.plugins"
DESIGNS = ["one_segment_many_names", "warm_segments", "pure_wrap", "segment_per_pickle"]
SAYS = "sglang-shm-hotfix: "
N = 8  # samples of the request whose scheduler is killed


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that the distribution was installed into, to be put on PYTHONPATH."""
    return install.hotfix_in(tmp_path_factory.mktemp("hotfix"))


@dataclass
class Hotfixed:
    """An engine's run with the distribution on its path: the verdict, and what the hotfix said in the log."""

    verdict: Verdict
    said: list[str]


@pytest.fixture(scope="module")
def its_host(installed):
    """A host that has imported sglang where the distribution is on the path. (sglang loads plugins later.)"""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(installed))
        host = Host(engine.environment("tiny", engine.CPU))
    with host:
        yield host


def hotfixed(installed, host, folder, scene, design: str, **arguments) -> Hotfixed:
    log = folder / f"{design or 'default'}.log"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(installed))
        patch.setenv("SGLANG_SHM_HOTFIX", design)
        environment = engine.environment("tiny", engine.CPU)
        verdict = launcher.run(scene, Namespace(**arguments), environment=environment, on=host, log=log)
    return Hotfixed(verdict, [line for line in log.read_text(encoding="utf-8").splitlines() if line.startswith(SAYS)])


@pytest.fixture(scope="module")
def with_it(installed, its_host, tmp_path_factory):
    """The released engine with the hotfix on every case; at last its scheduler is killed with a request in flight."""
    folder = tmp_path_factory.mktemp("with")
    return hotfixed(installed, its_host, folder, scenes.scheduler_killed, "", cases=list(scenes.CASES), n=N)


@pytest.fixture(scope="module")
def switched_off(installed, its_host, tmp_path_factory):
    """The released engine with the hotfix installed and off: n = 1, then n = 3."""
    folder = tmp_path_factory.mktemp("off")
    return hotfixed(installed, its_host, folder, scenes.engine_cases, "off", cases=["n = 1", "n = 3"], fixed=False)


def test_switched_off_the_engine_dies_of_n_3(switched_off):
    assert switched_off.verdict.is_the_crash()
    assert [event["case"] for event in switched_off.verdict.events if event["what"] == "case"] == ["n = 1"]
    assert switched_off.said == [f"{SAYS}off (SGLANG_SHM_HOTFIX=off): nothing is patched"]


@pytest.mark.parametrize("case", scenes.CASES)
def test_with_it_the_engine_answers_as_upstreams_fix_does(with_it, fixed_engine, case):
    answered = {event["case"]: event["answers"] for event in with_it.verdict.events if event["what"] == "case"}
    assert answered[case] == fixed_engine.answers[case]


def test_it_says_so_once(with_it):
    """Only the main process says it. The scheduler loads plugins, too, but it is silent."""
    assert len(with_it.said) == 1, with_it.said
    assert "sglang 0.5.12.post1 is patched in memory, design one_segment_many_names" in with_it.said[0]
    assert "TokenizerManager._handle_batch_request" in with_it.said[0]


def test_one_segment_a_feature_and_a_name_a_send(with_it):
    lives: dict[str, list[str]] = {}
    events = with_it.verdict.events
    for event in events[: [event["what"] for event in events].index("suspended")]:
        if event["what"] not in ("case", "hooks", "semaphore"):
            lives.setdefault(event["name"], []).append(event["what"])
    images = [(len(colours), n) for colours, n in scenes.CASES.values()]
    created = [["create", "open", "unlink"]] * sum(prompts for prompts, _ in images)
    linked = [["link", "open", "unlink"]] * sum(prompts * n for prompts, n in images if n > 1)
    assert sorted(lives.values()) == created + linked, json.dumps(lives, indent=1)


def test_nothing_is_left_when_the_scheduler_is_killed(with_it):
    """sglang then kills its own process tree with the resource tracker. No name stays, not even a name that was never
    opened."""
    killing = next(event for event in with_it.verdict.events if event["what"] == "killing")
    assert len(killing["names"]) == N + 1
    assert with_it.verdict.died[0] == "tokenizer killed by SIGKILL"
    left = [name for name in with_it.verdict.leftovers.segments if not name.startswith("sem.")]
    assert (left, with_it.verdict.leftovers.processes, with_it.verdict.leftovers.remaining) == ([], [], [])


def test_the_wheel_holds_the_designs(installed):
    ours, theirs = machine.ROOT / "fixed" / "designs", installed / "sglang_shm_hotfix" / "designs"
    assert {file.name for file in theirs.glob("*.py")} == {file.name for file in ours.glob("*.py")}
    for file in ours.glob("*.py"):
        assert (theirs / file.name).read_bytes() == file.read_bytes()


def test_sglang_finds_it_where_it_is_installed_and_nowhere_else(installed, tmp_path):
    found = (
        "from importlib.metadata import entry_points\n"
        f"print(*sorted(f'{{e.dist.name}} {{e.name}} = {{e.value}}' for e in entry_points(group='{GROUP}')))"
    )
    ours = "sglang-shm-hotfix sglang_shm_hotfix = sglang_shm_hotfix:register"
    assert machine.command("-c", found).stdout.strip() == ""
    assert machine.command("-c", found, PYTHONPATH=str(installed)).stdout.strip() == ours


REGISTER = """
import json, sys, types
registry = types.ModuleType("sglang.srt.plugins.hook_registry")
asked = []
class HookRegistry:
    register = staticmethod(lambda path, hook, kind: asked.append((path, f"{hook.__module__}.{hook.__name__}", kind)))
registry.HookRegistry, registry.HookType = HookRegistry, types.SimpleNamespace(AROUND="around")
for name in ("sglang", "sglang.srt", "sglang.srt.plugins"):
    sys.modules[name] = types.ModuleType(name)
sys.modules[registry.__name__] = registry
import sglang_shm_hotfix
sglang_shm_hotfix.register()
print(json.dumps(asked))
"""


def register(installed, folder, release: str, design: str = "", command=("-c", REGISTER)):
    """`register()` in a Python whose sglang says that it is `release`, with a stub for its registry."""
    metadata = folder / f"sglang-{release}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: sglang\nVersion: {release}\n", encoding="utf-8")
    path = f"{folder}:{installed}"
    return machine.command(*command, PYTHONPATH=path, SGLANG_SHM_HOTFIX=design)


@pytest.mark.parametrize("release", ["0.5.11", "0.5.12", "0.5.12.post1"])
@pytest.mark.parametrize("design", ["", *DESIGNS])
def test_an_affected_release_gets_the_designs_hooks(installed, tmp_path, release, design):
    design_module = importlib.import_module(f"fixed.designs.{design or DESIGNS[0]}")
    run = register(installed, tmp_path, release, design)
    asked = {path: hook for path, hook, kind in json.loads(run.stdout) if kind == "around"}
    expected = {path: f"{hook.__module__}.{hook.__name__}" for path, hook in design_module.HOOKS.items()}
    assert asked.pop("uvicorn.run") == "sglang_shm_hotfix.run_workers_with_plugins"
    assert asked == {path: hook.replace("fixed.", "sglang_shm_hotfix.") for path, hook in expected.items()}
    assert len(run.stderr.splitlines()) == 1
    assert f"sglang {release} is patched in memory, design {design or DESIGNS[0]}: " in run.stderr


def test_names_of_a_server_that_was_killed_with_its_tracker_are_removed_at_the_next_start(installed, tmp_path):
    make = "from sglang_shm_hotfix.designs import shm_names; print(shm_names.new_name())"
    name = machine.command("-c", make, PYTHONPATH=str(installed)).stdout.strip()
    (machine.SHM / name).touch()
    run = register(installed, tmp_path, "0.5.12.post1")
    assert not (machine.SHM / name).exists()
    assert run.stderr.splitlines()[1] == f"{SAYS}names of killed processes that were removed from /dev/shm: 1"


@pytest.mark.parametrize("release", ["0.5.10.post1", "0.5.12.post2", "0.5.24"])
def test_any_other_release_is_left_alone(installed, tmp_path, release):
    """For a newer release, the hotfix reads the source. Here there is none."""
    run = register(installed, tmp_path, release)
    assert (run.returncode, json.loads(run.stdout)) == (0, [])
    assert run.stderr.startswith(f"{SAYS}nothing to do: sglang {release} is ")
    assert len(run.stderr.splitlines()) == 1


@pytest.mark.parametrize("release", ["0.5.13", "0.5.15.post1", "0.5.23"])
@pytest.mark.parametrize("design", ["", "one_segment_many_names", "pure_wrap", "off"])
def test_a_fixed_release_is_made_faster(installed, tmp_path, release, design):
    run = register(installed, tmp_path, release, design)
    asked = {path.rpartition(".")[2]: hook for path, hook, _ in json.loads(run.stdout)}
    assert len(run.stderr.splitlines()) == 1
    if design in ("pure_wrap", "off"):
        assert asked == {}
    else:
        module = design or "warm_segments"
        assert asked["__init__"] == f"sglang_shm_hotfix.designs.{module}.name_instead_of_segment"
        assert f"sglang {release} is made faster in memory, design {module}: " in run.stderr


@pytest.mark.parametrize("release", ALL[ALL.index("0.5.11") :])
def test_the_probe_knows_every_release_and_sees_what_is_missing(installed, tmp_path, release, monkeypatch):
    monkeypatch.syspath_prepend(str(installed))
    probe = importlib.import_module("sglang_shm_hotfix.probe")
    for path in probe.NEEDED:  # the kit has utils/common.py of one release only
        copied = tmp_path / path
        copied.parent.mkdir(parents=True, exist_ok=True)
        code = source.read(LAST if path == probe.COMMON else release, path)
        copied.write_text(code.text, encoding="utf-8")
    assert probe.missing(tmp_path) == []
    changed = tmp_path / probe.MM_UTILS
    text = changed.read_text(encoding="utf-8")
    changed.write_text(text.replace("def wrap_shm_features(obj", "def wrap_shm_features(batch"), encoding="utf-8")
    (tmp_path / probe.COMMON).unlink()
    assert probe.missing(tmp_path) == ["wrap_shm_features", probe.COMMON]


LAUNCHER = """
import multiprocessing, runpy, sys
if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=runpy.run_path, args=(sys.argv[1],))
    process.start(); process.join(); sys.exit(process.exitcode)
"""


def test_in_somebodys_child_it_says_so_too(installed, tmp_path):
    """Some launchers start the server in a child process. This server says it, too, and its own children are silent."""
    (tmp_path / "launcher.py").write_text(LAUNCHER, encoding="utf-8")
    again = "import subprocess, os\nif 'AGAIN' not in os.environ:\n    os.environ['AGAIN'] = '1'\n"
    (tmp_path / "server.py").write_text(
        f"{REGISTER}\n{again}    subprocess.run([sys.executable, __file__])\n", encoding="utf-8"
    )
    words = [tmp_path / "launcher.py", tmp_path / "server.py"]
    run = register(installed, tmp_path, "0.5.12.post1", command=words)
    assert len(run.stdout.splitlines()) == 2
    assert len([line for line in run.stderr.splitlines() if line.startswith(SAYS)]) == 1


def test_off(installed, tmp_path):
    run = register(installed, tmp_path, "0.5.12.post1", "off")
    assert (run.returncode, json.loads(run.stdout)) == (0, [])
    assert run.stderr == f"{SAYS}off (SGLANG_SHM_HOTFIX=off): nothing is patched\n"


def test_a_typo_stops_the_server(installed):
    """The typo's error passes through `register`, and through sglang's own `load_plugins`, which catches every
    Exception of a plugin."""
    server = (
        "import importlib.util, sys, types; sglang = types.ModuleType('sglang');"  # all of it would take 15 s to import
        "sglang.__path__ = importlib.util.find_spec('sglang').submodule_search_locations;"
        "sys.modules['sglang'] = sglang;"
        "from sglang.srt.plugins import load_plugins; load_plugins(); print('started')"
    )
    run = machine.command("-c", server, PYTHONPATH=str(installed), SGLANG_SHM_HOTFIX="one_segment")
    assert (run.returncode, run.stdout) == (2, "")
    said = [line for line in run.stderr.splitlines() if line.startswith(SAYS)]
    way_out = f"set SGLANG_SHM_HOTFIX to {', '.join(DESIGNS)}, or off; or unset it for {DESIGNS[0]}"
    assert said == [f"{SAYS}no design 'one_segment': {way_out}"]
    assert "Traceback" not in run.stderr


IN_A_CHILD = """
import sys
from multiprocessing import get_context
def serve(children):
    exec({code!r}, {{}})
    if children:
        scheduler = get_context("spawn").Process(target=serve, args=(0,))
        scheduler.start(), scheduler.join()
if __name__ == "__main__":
    server = get_context("spawn").Process(target=serve, args=(1,))
    server.start(), server.join()
    sys.exit(server.exitcode)
"""


@pytest.mark.parametrize(("design", "status"), [("", 0), ("one_segment", 2)])
def test_a_server_that_is_somebodys_child_says_so_once(installed, tmp_path, design, status):
    """Such as one that a trainer starts with `multiprocessing.Process(target=launch_server)`."""
    (tmp_path / "launcher.py").write_text(IN_A_CHILD.format(code=REGISTER), encoding="utf-8")
    run = register(installed, tmp_path, "0.5.12", design, command=[tmp_path / "launcher.py"])
    assert run.returncode == status, run.stderr
    assert [line[: len(SAYS)] for line in run.stderr.splitlines()] == [SAYS]


def test_every_module_has_the_hooked_functions(with_it):
    """A module that imports a hooked function by name gets the hooked function. A tokenizer worker gets an app with
    hooks."""
    noted = next(event for event in with_it.verdict.events if event["what"] == "hooks")
    assert noted["bare"] == []
    assert noted["served"] == ["sglang_shm_hotfix.worker:app", "somebody.elses:app", "FastAPI"]
