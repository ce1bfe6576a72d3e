"""`python -m tests.lifted_upstream RELEASE...`: upstream's regression test on each release's lifted functions, and,
on the last affected release, on every mutant and design. Prints as JSON what became of each case: null, or why it is
red."""

from __future__ import annotations

import importlib
import json
import sys
import unittest
from types import ModuleType
from unittest import mock

from fixed.designs import DESIGNS, Design
from fixed.mutants import MUTANTS
from repro.lab.releases import AFFECTED
from repro.lab.upstream.plugs import as_fix
from repro.lab.upstream.release import Release

FILE = "tests.upstream.test_parallel_sampling_shm_ownership"
CASES = ("test_one_image", "test_two_items", "test_a_list_of_tensors", "test_two_prompts")
PACKAGES = ("sglang", "sglang.srt", "sglang.srt.managers")


def outcome(name: str, design: Design | None = None) -> dict[str, str | None]:
    """Each case on one release, with a design plugged in: None, or the last words of its failure."""
    release, fix = Release.of(name), as_fix(design)
    lifted = {"mm_utils": release.mm_utils.module, "tokenizer_manager": release.manager(fix).module}
    packages = {package: ModuleType(package) for package in PACKAGES}
    vars(packages["sglang.srt.managers"]).update(lifted)
    with mock.patch.dict(sys.modules, packages), release.plugged(fix, fix.prepare):
        sys.modules.pop(FILE, None)
        suite = unittest.defaultTestLoader.loadTestsFromModule(importlib.import_module(FILE))
        result = unittest.TextTestRunner(stream=sys.stderr).run(suite)
    red = {test.id().rpartition(".")[2]: _why(words) for test, words in [*result.failures, *result.errors]}
    return {case: red.get(case) for case in CASES}


def _why(words: str) -> str:
    return words.strip().splitlines()[-1].rpartition(" : ")[2]


def main() -> None:
    """Every release that was asked for; then every mutant and design."""
    told = {release: outcome(release) for release in sys.argv[1:]}
    told |= {design.name: outcome(AFFECTED[-1], design) for design in (*MUTANTS, *DESIGNS)}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
