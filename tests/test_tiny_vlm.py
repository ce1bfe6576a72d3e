"""The tiny model: it is built once, complete or not at all, and always with the same bytes. It says what it sees."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from repro.lab.engine import made_pictures, tiny_vlm
from repro.lab.places import cache_directory
from tests import machine

BUILD = "import sys; from pathlib import Path; from repro.lab.engine import tiny_vlm; tiny_vlm.build(Path(sys.argv[1]))"


def digests(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The model, built in a process of its own."""
    folder = tmp_path_factory.mktemp("model")
    subprocess.run([sys.executable, "-c", BUILD, folder], cwd=machine.ROOT, check=True, capture_output=True)
    return folder


def test_the_same_to_the_byte(built):
    assert digests(built) == digests(tiny_vlm.path())


def test_about_two_and_a_half_megabytes(built):
    assert 2.0e6 < sum(file.stat().st_size for file in built.iterdir()) < 3.0e6


def test_a_model_that_is_there_is_not_built_again(monkeypatch):
    tiny_vlm.path()
    monkeypatch.setattr(tiny_vlm.subprocess, "Popen", lambda *_, **__: pytest.fail("built again"))
    assert tiny_vlm.path() == tiny_vlm.location()


def test_a_build_that_fails_leaves_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def half(folder: Path) -> None:
        (folder / "config.json").write_text("{", encoding="utf-8")
        raise KeyboardInterrupt

    monkeypatch.setattr(tiny_vlm, "build", half)
    with pytest.raises(KeyboardInterrupt):
        tiny_vlm.main()
    assert os.listdir(cache_directory()) == []


def test_another_recipe_is_another_place(monkeypatch):
    here = tiny_vlm.location()
    monkeypatch.setattr(tiny_vlm, "version", lambda name: "0")
    assert tiny_vlm.location() != here


def test_heads_that_gpu_kernels_accept():
    assert tiny_vlm.TEXT["hidden_size"] / tiny_vlm.TEXT["num_attention_heads"] == 64
    assert tiny_vlm.VISION["hidden_size"] / tiny_vlm.VISION["num_heads"] == 64


EXAMINE = """
import json, random
from repro.lab.engine import made_pictures, tiny_vlm
from scripts import train_tiny_vlm as training
from PIL import Image

trainer = training.Trainer()
trainer.load(tiny_vlm.shipped())
shown = [Image.new("RGB", (112, 112), colour) for colour in ("crimson", "navy")]
print(json.dumps({
    "false": training.exam(trainer, 100),
    "false at temperature 1": training.exam(trainer, 50, temperature=1.0),
    "shown": training.answers(trainer, shown),
    "samples": training.answers(trainer, shown[:1] * 16, temperature=1.0),
}))
"""


@pytest.fixture(scope="module")
def examined():
    """What the shipped weights say of pictures, in a process of its own."""
    told = subprocess.run(
        [sys.executable, "-c", EXAMINE], cwd=machine.ROOT, check=True, capture_output=True, encoding="utf-8"
    )
    return json.loads(told.stdout.splitlines()[-1])


def test_of_100_unseen_pictures_at_most_one_is_described_falsely(examined):
    assert len(examined["false"]) <= 1, examined["false"]


def test_every_picture_that_the_kit_shows_is_described_truly(examined):
    assert examined["shown"] == ["a crimson square", "a navy square"]


def test_at_temperature_1_the_answers_differ_and_are_true(examined):
    true = made_pictures.Scene(1, "crimson", "square").sentences()
    assert len(set(examined["samples"])) > 1
    assert set(examined["samples"]) <= set(true)
    assert len(examined["false at temperature 1"]) <= 1, examined["false at temperature 1"]


FIRST_STEPS = """
from scripts.train_tiny_vlm import Trainer

first, again, other = Trainer(seed=1), Trainer(seed=1), Trainer(seed=2)
told = [[trainer.step(number) for number in range(2)] for trainer in (first, again, other)]
assert told[0] == told[1] != told[2], told
"""


@pytest.mark.long
def test_the_first_steps_of_the_training_are_those_of_the_seed():
    subprocess.run([sys.executable, "-c", FIRST_STEPS], cwd=machine.ROOT, check=True)


def test_the_shipped_weights_are_small_and_travel_with_the_package():
    assert tiny_vlm.SHIPPED.stat().st_size <= 1.5 * 2**20
    told = (machine.ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert all(f'"{file.name}"' in told for file in (tiny_vlm.SHIPPED, tiny_vlm.CHECKSUM))


def test_other_weights_are_refused(monkeypatch, tmp_path):
    weights = bytearray(tiny_vlm.SHIPPED.read_bytes())
    weights[-1] ^= 1
    other = tmp_path / tiny_vlm.SHIPPED.name
    other.write_bytes(weights)
    monkeypatch.setattr(tiny_vlm, "SHIPPED", other)
    with pytest.raises(OSError, match="sha256"):
        tiny_vlm.shipped()


@pytest.mark.parametrize("word", made_pictures.WORDS)
def test_a_word_is_one_token(word, built):
    tokens = json.loads((built / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
    assert f" {word}" in {token["content"] for token in tokens}


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_every_sentence_is_made_of_the_words_and_fits_into_an_answer(count):
    for sentence in made_pictures.Scene(count, "navy", "circle").sentences():
        assert set(sentence.split()) <= set(made_pictures.WORDS)
        assert len(sentence.split()) < 8
