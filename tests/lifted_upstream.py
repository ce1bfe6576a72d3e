"""`python -m tests.lifted_upstream RELEASE...`: run the tests that are to be offered upstream. They run on each
release's lifted functions, where they apply: the test of ownership from 0.5.9 on, the test of the rooms everywhere.
They run on the last affected release with every mutant and design of the fix, and on the newest release with every
mutant of a fixed release and with the fix for the bootstrap rooms. Prints the result of each case as JSON: null, or
why the case is red."""

from __future__ import annotations

import importlib
import json
import sys
import unittest
from collections.abc import Mapping
from types import ModuleType
from typing import Any
from unittest import mock

import torch  # noqa: F401 - here, for what is imported under `patch.dict(sys.modules)` is forgotten afterwards

from fixed import bootstrap_room
from fixed.designs import DESIGNS, Design
from fixed.later_mutants import LATER_MUTANTS, LaterMutant
from fixed.mutants import MUTANTS
from repro.lab.places import ROOT
from repro.lab.releases import AFFECTED, NEWEST
from repro.lab.upstream.lift import Lifted
from repro.lab.upstream.plugs import as_fix, hooked
from repro.lab.upstream.release import Release

FOLDER = ROOT / "tests" / "upstream"
OWNERSHIP, ROOMS = "test_parallel_sampling_shm_ownership", "test_parallel_sampling_bootstrap_room"
CASES = ("test_one_image", "test_two_items", "test_a_list_of_tensors", "test_two_prompts")
ROOM_CASES = ("test_each_send_has_a_room_of_its_own", "test_both_servers_draw_the_same_rooms")
PACKAGES = ("sglang", "sglang.srt", "sglang.srt.managers")
Outcome = dict[str, str | None]


def outcome(name: str, design: Design | None = None, file: str = OWNERSHIP) -> Outcome:
    """Each case on one release, with a design plugged in: None, or the last words of its failure."""
    release, fix = Release.of(name), as_fix(design)
    with release.plugged(fix, fix.prepare):
        return on(release.mm_utils, release.manager(fix), file)


def of_mutant(mutant: LaterMutant) -> Outcome:
    """Each case on the newest release with this mutant in it."""
    release = Release.of(NEWEST)
    manager = release.with_the_bug_again(mutant.undone) if mutant.undone else release.tokenizer_manager
    with hooked(mutant.hooks, {"mm_utils": release.mm_utils, "tokenizer_manager": manager}, NEWEST):
        return on(release.mm_utils, manager)


def on(mm_utils: Lifted | None, manager: Lifted, file: str = OWNERSHIP) -> Outcome:
    """Each case on these lifted modules, which the test finds under upstream's names. Before 0.5.9, `mm_utils` has
    nothing that is lifted."""
    packages: Mapping[str, Any] = {package: ModuleType(package) for package in PACKAGES}
    lifted = {"mm_utils": mm_utils.module if mm_utils else ModuleType("mm_utils"), "tokenizer_manager": manager.module}
    vars(packages["sglang.srt.managers"]).update(lifted)
    with mock.patch.dict(sys.modules, packages), mock.patch.object(sys, "path", [str(FOLDER), *sys.path]):
        for name in (OWNERSHIP, ROOMS):
            sys.modules.pop(name, None)
        module = importlib.import_module(file)
        suite = unittest.defaultTestLoader.loadTestsFromModule(module)
        result = unittest.TextTestRunner(stream=sys.stderr).run(suite)
    red = {test.id().rpartition(".")[2]: _why(words) for test, words in [*result.failures, *result.errors]}
    return {case: red.get(case) for case in (CASES if file == OWNERSHIP else ROOM_CASES)}


def _why(words: str) -> str:
    return words.strip().splitlines()[-1].rpartition(" : ")[2]


def main() -> None:
    """Every release that was asked for; then every mutant and design; then the rooms."""
    told = {release: outcome(release) for release in sys.argv[1:] if Release.of(release).mm_utils}
    told |= {design.name: outcome(AFFECTED[-1], design) for design in (*MUTANTS, *DESIGNS)}
    told |= {f"{NEWEST} {mutant.name}": of_mutant(mutant) for mutant in LATER_MUTANTS}
    told |= {f"rooms {release}": outcome(release, file=ROOMS) for release in sys.argv[1:]}
    fixed = Design("rooms", hooks=bootstrap_room.HOOKS)
    told |= {f"fixed rooms {release}": outcome(release, fixed, ROOMS) for release in sys.argv[1:]}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
