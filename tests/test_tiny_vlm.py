"""The tiny model: built once, whole or not at all, and the same to the byte."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from repro.lab.engine import tiny_vlm
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
