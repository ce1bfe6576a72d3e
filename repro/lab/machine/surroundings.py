"""The kit's environment to which this Python belongs: that of `make setup`, `make gpu`, `make latest`, or
environment.yml.

Each environment has its own locks and its own command that makes it again. Standard library only, because this must run
if packages are missing.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from repro.lab.places import ROOT

GPU_FOLDER, LATEST_FOLDER = ".venv-gpu", ".venv-latest"
CONDAS_MARK = "conda-meta"  # conda itself knows its environments by this folder


@dataclass(frozen=True)
class Surroundings:
    """An environment: its name, the locks of its packages, the command that repairs it, and the command that installs
    the kit itself."""

    name: str
    locks: tuple[str, ...]
    mend: str
    bring_kit: str


CPU = Surroundings("that of `make setup`", ("cpu.lock", "tools.lock"), "make -B setup", "make -B setup")
GPU = Surroundings("that of `make gpu`", ("gpu.lock",), "make -B gpu", "make -B gpu")
LATEST = Surroundings("that of `make latest`", ("latest.lock",), "make -B latest", "make -B latest")
CONDA = Surroundings("conda's", ("gpu.lock",), "conda env update -f environment.yml", "pip install --no-deps -e .")


def here(prefix: str = sys.prefix) -> Surroundings:
    """The environment with that prefix. Any other Python is treated as the environment of `make setup`."""
    if (Path(prefix) / CONDAS_MARK).is_dir():
        return CONDA
    return {ROOT / GPU_FOLDER: GPU, ROOT / LATEST_FOLDER: LATEST}.get(Path(prefix), CPU)
