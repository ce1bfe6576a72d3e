"""The stepper looks at every line, and what it shows is what was there."""

from __future__ import annotations

import re

import pytest

from fixed.detach import detach
from repro.lab.evidence.recorder import Recorder, note
from repro.lab.lifted import make_request
from repro.lab.teaching import film, stepper
from repro.lab.upstream import source
from tests.browser import CHROMIUM, FLAGS, needed

COPY = ("copied", "about to be sent")
TWO_PROMPTS = [
    (send, COPY) for send in ("warm-up a", "warm-up b", "sample 1 a", "sample 2 a", "sample 1 b", "sample 2 b")
]


@pytest.fixture(scope="module")
def crash():
    return stepper.walk(n=2)


def at(walk: stepper.Walk, text: str) -> list[stepper.Step]:
    """The steps whose line contains `text`."""
    return [step for step in walk.steps if text in step.code]


def test_the_lines_are_upstreams(crash):
    lines = source.read(source.INSTALLED, source.TOKENIZER_MANAGER).text.splitlines()
    assert all(step.code == lines[step.line - 1] for step in crash.steps)
    assert [step.number for step in crash.steps] == list(range(len(crash.steps)))


def test_one_warm_up_and_two_samples(crash):
    sends = at(crash, "self._send_one_request(tokenized_obj)")
    assert [step.sends for step in sends] == [0, 1, 1]  # the samples make no event of their own: nothing is wrapped
    assert [step.variables["max_new_tokens"] for step in sends] == ["0", "8", "8"]


def test_the_copies_share_and_the_wrap_mutates_the_source(crash):
    warm_up, *samples = at(crash, "self._send_one_request(tokenized_obj)")
    for step in (warm_up, *samples):
        assert step.roots["tokenized_obj"].mm_inputs is step.roots["tokenized_objs[0]"].mm_inputs
    assert warm_up.mutated is None
    assert all(step.mutated is step.roots["tokenized_objs[0]"].mm_inputs.mm_items[0] for step in samples)


def test_the_name_is_gone_when_the_first_sample_is_copied(crash):
    first_sample = at(crash, "copy.copy(tokenized_objs[i])")[1]
    assert list(first_sample.names.values()) == [False]


def test_steps_do_not_change_afterwards(crash):
    """A step is a snapshot: the first one after tokenizing still holds the tensor."""
    first = next(step for step in crash.steps if step.roots)
    assert type(first.roots["tokenized_objs[0]"].mm_inputs.mm_items[0].feature).__name__ == "Tensor"


def test_with_the_fix_nothing_is_mutated():
    walk = stepper.walk(n=2, fix=detach)
    assert walk.run.faults() == []
    assert all(step.mutated is None for step in walk.steps)
    last = at(walk, "self._send_one_request(tokenized_obj)")[-1]
    assert last.roots["tokenized_obj"].mm_inputs is not last.roots["tokenized_objs[0]"].mm_inputs


def test_looking_does_not_touch(crash):
    assert crash.run.verdict.is_the_crash()
    assert crash.run.verdict.life_of_segment() == ["create", "open", "unlink", "open failed"]


def test_n_1_takes_the_other_branch():
    walk = stepper.walk(make_request(), n=1)
    assert not at(walk, "copy.copy(tokenized_objs[i])")
    assert walk.run.verdict.outcome == "survived"


def test_only_one_recording_at_a_time(tmp_path):
    with Recorder(tmp_path / "a", "tokenizer"):
        note("semaphore", name="x")
        with pytest.raises(RuntimeError, match="already recorded"), Recorder(tmp_path / "b", "tokenizer"):
            pass
    assert '"name": "x"' in (tmp_path / "a").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("prompts", "n", "captions"),
    [
        (["a"], 1, ["request: about to be sent"]),
        (["a", "b"], 2, [f"{send}: {act}" for send, acts in TWO_PROMPTS for act in acts]),
    ],
)
def test_the_filmstrip_says_which_send_it_shows(prompts, n, captions):
    walk = stepper.walk([make_request(rid=rid) for rid in prompts], n=n, fix=detach)
    told = [caption for caption, _ in film.moments(walk) if not caption.endswith("answered")]
    assert told == captions
    assert "max-width:100%" in film.filmstrip(walk).data  # however narrow the page is


def test_the_player_announces_each_step_and_has_no_script(crash):
    told = film.player(crash).data
    assert '<p class="said" role="status" aria-live="polite">' in told
    assert "<script" not in told
    last = f"step {len(crash.steps)} of {len(crash.steps)}, line {crash.steps[-1].line}; name 1: gone"
    assert told.count(f"<span>{last}</span>") == told.count(f'aria-label="{last}"') == 1
    assert told.count(" checked>") == 1


def test_two_players_on_one_page_do_not_disturb_each_other(crash):
    one, other = (re.search(r'name="([^"]+)"', film.player(crash).data)[1] for _ in range(2))
    assert one != other


@pytest.mark.browser
@needed
@pytest.mark.parametrize("width", [360, 1280])
def test_the_player_needs_neither_kernel_nor_script(crash, tmp_path, width):
    """In a page without JavaScript: by the arrow keys, by a mark, by the buttons."""
    from playwright.sync_api import sync_playwright

    path = tmp_path / "player.html"
    path.write_text(f'<!doctype html><meta charset="utf-8">{film.player(crash).data}', encoding="utf-8")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_context(java_script_enabled=False, viewport={"width": width, "height": 900}).new_page()
        page.goto(path.as_uri())

        def shown():
            [frame], [said] = page.locator(".page:visible").all(), page.locator(".said > span:visible").all()
            assert said.inner_text().startswith(f"step {int(frame.get_attribute('data-step')) + 1} of ")
            return int(frame.get_attribute("data-step"))

        assert shown() == 0
        page.locator(".film > input").first.focus()
        for key, step in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1)):
            page.keyboard.press(key)
            assert shown() == step
        page.locator("label:visible", has_text="next").click()
        assert shown() == 2
        page.locator(".film > input").nth(30).click()
        assert shown() == 30
        assert page.locator(".page:visible .now").inner_text().split()[0] == str(crash.steps[30].line)
        assert all(box.bounding_box()["width"] <= width for box in page.locator(".film, .page:visible > div").all())
        browser.close()
