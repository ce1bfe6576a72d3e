"""README shows what its commands print today."""

from __future__ import annotations

import re

import pytest

from repro.lab.teaching import transcript
from scripts import readme
from tests import machine

TEXT = (machine.ROOT / "README.md").read_text()
BLOCKS = readme.blocks(TEXT)


@pytest.mark.parametrize("side", ["repro", "fixed"])
def test_transcript_is_fresh(side, demo):
    assert transcript.compared(BLOCKS[f"python {side}/crash.py"]) == transcript.compared(demo[1][side])


def test_a_stale_transcript_is_noticed():
    stale = BLOCKS["python repro/crash.py"].replace("__setstate__", "materialize")
    assert transcript.compared(stale) != transcript.compared(BLOCKS["python repro/crash.py"])


def test_names_times_and_paths_do_not_count():
    ours = (
        '/psm_1a2b3c4d took 1.0 s\n  File "/a/site-packages/x.py", line 1, in f\n    code\n    ^^^\nE: /psm_ffff0000\n'
    )
    theirs = '/psm_00000000 took 9.9 s\n  File "/b/site-packages/x.py", line 1, in f\n    code\nE: /psm_11111111\n'
    assert transcript.compared(ours) == transcript.compared(theirs)


def test_the_first_screen_has_the_two_commands():
    top = "\n".join(TEXT.splitlines()[:30])
    assert "make demo" in top
    assert "make test" in top


def test_every_file_that_readme_names_exists():
    for name in re.findall(r"`((?:repro|fixed|tests|notebooks|requirements|scripts)/[\w./]+)`", TEXT):
        assert (machine.ROOT / name).exists(), name


def test_every_link_leads_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", TEXT):
        assert (machine.ROOT / target).exists(), target


def test_every_make_target_exists():
    makefile = (machine.ROOT / "Makefile").read_text()
    for target in set(re.findall(r"`make ([a-z]+)", TEXT)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_pictures_are_fresh():
    from scripts import pictures

    for name, svg in pictures.drawn().items():
        assert (pictures.FOLDER / name).read_text() == svg, name
