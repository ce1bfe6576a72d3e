"""The main module of the process that hosts an engine, and of every process that sglang spawns from it.

`python -m repro.lab.engine.child FILE FUNCTION` reads the scene's arguments (JSON) from standard input and calls
FUNCTION of FILE with them. multiprocessing's `spawn` imports this module again in the scheduler and in the
detokenizer. So the recorder and the stand-in are in place there, too, before anything of sglang is imported. A forked
process has them already.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from repro.lab.engine import sgl_kernel_standin
from repro.lab.evidence import recorder
from repro.lab.refused import Refused

if os.environ.get(recorder.EVENTS_FILE):
    recorder.install()
    if os.environ.get("SGLANG_USE_CPU_ENGINE") == "1":
        sgl_kernel_standin.install_if_missing()


def main(file: str, function: str) -> int:
    """Run the scene. Note its answers, or why it was refused. Python prints any other exception."""
    recorder.install()  # not done yet in the fork of a host
    arguments = Namespace(**json.load(sys.stdin))
    try:
        answers = load(Path(file), function)(arguments)
    except Refused as refusal:
        recorder.note("refused", error=str(refusal))
        return 2
    recorder.note("answers", answers=answers)
    return 0


def load(file: Path, function: str) -> Callable[[Namespace], object]:
    """FUNCTION of FILE, imported under a name that is not `__main__`, so that its own main does not run."""
    spec = importlib.util.spec_from_file_location(f"scene_{file.parent.name}_{file.stem}", file)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return getattr(module, function)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
