"""The minutes that a notebook states are enough to read it; the tracks of the onboarding pack add up."""

from __future__ import annotations

import re

import pytest

from scripts import minutes, notebooks

TRACK = re.compile(r"^\| (?P<begins>\d+) to (?P<ends>\d+) \| (\[(?P<lesson>\w+)\])?", re.MULTILINE)
TITLE = re.compile(r"^### (?P<minutes>\d+) minutes: .*?(?=^##|\Z)", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("path", minutes.lessons(), ids=lambda path: path.name)
def test_a_notebook_states_enough_minutes_and_not_many_more(path):
    assert minutes.reading(path) <= minutes.stated(path) <= 2 * minutes.reading(path)


def test_the_tracks_add_up():
    page = (notebooks.FOLDER / "README.md").read_text(encoding="utf-8")
    stated = {path.stem: minutes.stated(path) for path in minutes.lessons()}
    tracks = list(TITLE.finditer(page))
    assert [int(track["minutes"]) for track in tracks] == [10, 90, 150]
    for track in tracks:
        rows = [(int(row["begins"]), int(row["ends"]), row["lesson"]) for row in TRACK.finditer(track[0])]
        assert [ends for _, ends, _ in rows] == [begins for begins, _, _ in rows[1:]] + [int(track["minutes"])]
        for begins, ends, lesson in rows:
            assert lesson is None or ends - begins == stated[lesson]


def test_a_notebook_without_minutes_is_noticed(tmp_path):
    path = tmp_path / "silent.ipynb"
    path.write_text(
        '{"cells": [{"cell_type": "markdown", "id": "a", "metadata": {}, "source": "# 01"}],'
        ' "metadata": {}, "nbformat": 4, "nbformat_minor": 5}',
        encoding="utf-8",
    )
    with pytest.raises(ValueError, match="silent"):
        minutes.stated(path)
