"""A Python that lacks the kit's packages, told in one line: most likely it is the system's, and not the kit's."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable

from repro.lab.places import ROOT


def missing(names: Iterable[str]) -> list[str]:
    """Those of these modules that this Python does not have."""
    return [name for name in names if importlib.util.find_spec(name) is None]


def require(*names: str) -> None:
    """Return if this Python has these packages. Otherwise, raises ModuleNotFoundError, whose message has the way out.
    A command of the kit (`python -m repro.lab`) prints the message and exits with status 2: its packages are imported
    before its main function, which could catch an error."""
    lacking = missing(names)
    if not lacking:
        return
    told = f"{sys.executable} has no {', '.join(lacking)}: run `make demo` once, then use .venv/bin/python"
    command = _module_that_runs()
    if not command or not (ROOT / command.partition(".")[0]).is_dir():
        raise ModuleNotFoundError(told, name=lacking[0])
    print(f"{command}: {told}", file=sys.stderr)
    raise SystemExit(2)


def _module_that_runs() -> str:
    """The module of `python -m MODULE`, or nothing."""
    words = sys.orig_argv
    return words[words.index("-m") + 1] if "-m" in words[:-1] else ""
