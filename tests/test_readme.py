"""README and docs show what their commands print today, name what exists, and lead where they say."""

from __future__ import annotations

import re
from dataclasses import fields

import pytest

from repro.lab.evidence.verdict import Verdict
from repro.lab.teaching import transcript
from scripts import readme
from tests import machine

TEXT = (machine.ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [pytest.param(path, id=path.name) for path in readme.pages()]
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


def test_readme_is_short():
    assert len(TEXT.splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_names_exists(page):
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"`((?:repro|fixed|tests|notebooks|requirements|scripts|docs)/[\w./]+)`", text):
        assert (machine.ROOT / name).exists(), name


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES)
def test_every_make_target_exists(page):
    makefile = (machine.ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"`make ([a-z]+)", page.read_text(encoding="utf-8"))):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_verdicts_keys_are_documented_once():
    lab = (machine.ROOT / "docs" / "lab.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", lab[lab.index("## The verdict") :], re.MULTILINE)
    documented = [key for row in rows for key in re.findall(r"`(\w+)`", row)]
    assert sorted(documented) == sorted(field.name for field in fields(Verdict))


def test_pictures_are_fresh():
    from scripts import pictures

    for name, svg in pictures.drawn().items():
        assert (machine.ROOT / name).read_text(encoding="utf-8") == svg, name
