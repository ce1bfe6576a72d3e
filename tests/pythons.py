"""The Pythons that the kit promises to run on, where this machine has them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

PROMISED = ("3.10", "3.11", "3.12", "3.13")


def python_of(version: str) -> str:
    """A Python of that version: pyenv's or the one on PATH. Skips the test if there is none."""
    name = f"python{version}"
    candidates = [*map(str, Path.home().glob(f".pyenv/versions/{version}.*/bin/{name}")), shutil.which(name)]
    found = next((python for python in candidates if python and _is(python, version)), None)
    if found is None:
        pytest.skip(f"no {name} in ~/.pyenv/versions or on PATH")
    return found


def _is(python: str, version: str) -> bool:
    """Whether `python` runs and is of `version`. (pyenv's shims are there even for a Python that is not.)"""
    ask = [python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    try:
        return subprocess.run(ask, capture_output=True, encoding="utf-8", timeout=60).stdout.strip() == version
    except OSError:
        return False
