"""An exercise, and the grade of a reader's file."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from repro.lab.limits import within
from repro.lab.refused import Refused

PASSED, NOT_YET, BAD_FILE = 0, 1, 2  # exit statuses
LIMIT = 10.0  # seconds for a file to be loaded


@dataclass(frozen=True)
class Told:
    """The grade of a file: the `text` for the reader, and the exit `status` that says the same."""

    status: int
    text: str


def not_yet(what: str, hint: str) -> Told:
    """The grade of an attempt that is not right yet: what is wrong, and the next hint."""
    return Told(NOT_YET, f"not yet: {what}\nhint: {hint}")


@dataclass(frozen=True)
class Exercise:
    """An exercise of a notebook. `template` is the text of the file that the reader starts with. `function` is the name
    of the function that the reader changes, and `judge(function)` grades it. To save time later, the modules that the
    judge `needs` are imported, and `warm_up` is called, before there is a file to grade."""

    name: str
    notebook: str
    function: str
    template: str
    judge: Callable[[Callable[..., Any]], Told]
    needs: tuple[str, ...] = ()
    warm_up: Callable[[], object] = lambda: None

    def of_file(self, path: Path) -> Told:
        """Return the grade of the attempt in this file. Every error of the file is in the grade, and none is raised."""
        try:
            return self.judge(self._function_in(path))
        except Refused as refusal:
            return Told(BAD_FILE, str(refusal))

    def _function_in(self, path: Path) -> Callable[..., Any]:
        """The reader's function. Raises Refused if the file cannot be loaded (the message has the line), or has no such
        function."""
        try:
            code = compile(path.read_text(encoding="utf-8"), str(path), "exec")
        except OSError as error:
            raise Refused(f"{path}: {error.strerror}", "give a file that can be read") from None
        except SyntaxError as error:
            raise Refused(f"{path}, line {error.lineno}: {error.msg}") from None
        except ValueError as error:  # not UTF-8, or a NUL in it
            raise Refused(f"{path}: {error}", "save the file as UTF-8 text") from None
        names = {"__name__": "exercise"}
        try:
            within(LIMIT, partial(exec, code, names))
        except TimeoutError:
            way_out = "look for a loop or a wait outside of the function"
            raise Refused(f"{path} was not loaded within {LIMIT:g} s", way_out) from None
        except BaseException as error:  # SystemExit, too
            raise Refused(f"{path}, line {_line(error, path)}: {type(error).__name__}: {error}") from None
        found = names.get(self.function)
        if not callable(found):
            raise Refused(f"{path} has no function {self.function!r}", f"define {self.function} in the file")
        return found


def _line(error: BaseException, path: Path) -> int:
    """The line of the file in which the error happened: the innermost one of the traceback. 0 if there is none."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return lines[-1] if lines else 0
