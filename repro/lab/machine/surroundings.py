"""Which of the kit's environments this Python is: that of `make setup`, `make gpu`, `make latest`, or environment.yml.

Each has its own locks, and its own way to be made again. Standard library only: it must run where parts are missing.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from repro.lab.places import ROOT

GPU_FOLDER, LATEST_FOLDER = ".venv-gpu", ".venv-latest"
CONDAS_MARK = "conda-meta"  # the folder by which conda, too, knows an environment


@dataclass(frozen=True)
class Surroundings:
    """An environment: what it is called, the locks that say what is in it, the command that mends it, and the command
    that brings the kit itself."""

    name: str
    locks: tuple[str, ...]
    mend: str
    bring_kit: str


CPU = Surroundings("that of `make setup`", ("cpu.lock", "tools.lock"), "make -B setup", "make -B setup")
GPU = Surroundings("that of `make gpu`", ("gpu.lock",), "make -B gpu", "make -B gpu")
LATEST = Surroundings("that of `make latest`", ("latest.lock",), "make -B latest", "make -B latest")
CONDA = Surroundings("conda's", ("gpu.lock",), "conda env update -f environment.yml", "pip install --no-deps -e .")


def here(prefix: str = sys.prefix) -> Surroundings:
    """The environment with that prefix. A Python of another kind is held to what `make setup` makes."""
    if (Path(prefix) / CONDAS_MARK).is_dir():
        return CONDA
    return {ROOT / GPU_FOLDER: GPU, ROOT / LATEST_FOLDER: LATEST}.get(Path(prefix), CPU)
