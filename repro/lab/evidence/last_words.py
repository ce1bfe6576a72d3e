"""Read the traceback of a dead process from a log."""

from __future__ import annotations

import re
from dataclasses import dataclass

from repro.lab.evidence import recorder

FRAME = re.compile(r'^ +File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>\S+)$')
ERROR = re.compile(r"^(?P<error>[A-Za-z_][\w.]*)(?:: (?P<message>.*))?$")
START = "Traceback (most recent call last):"
HIT = re.compile(r"(\w+) hit an exception: \Z")  # a process of sglang prints this before the traceback that ends it
LINE = 200  # characters before a traceback, in which HIT is looked for


@dataclass(frozen=True)
class Frame:
    """One frame of a traceback. `text` is the printed text of the frame, with its source line."""

    file: str
    line: int
    function: str
    text: str


@dataclass(frozen=True)
class LastWords:
    """The exception that ended a process, and its frames (outermost first, without the recorder's frames). `process` is
    the name that sglang gives the process: `scheduler`, `detokenizermanager`, ...; otherwise it is `tokenizer`."""

    error: str
    message: str
    frames: tuple[Frame, ...]
    process: str = "tokenizer"

    @property
    def errno(self) -> int | None:
        """The number in `[Errno 2]`, or None."""
        number = re.search(r"\[Errno (\d+)\]", self.message)
        return int(number[1]) if number else None

    @property
    def segment(self) -> str | None:
        """The shared-memory name that the message ends with, such as `/psm_1a2b3c4d`, or None."""
        name = re.search(r"'(/[^'/]+)'$", self.message)
        return name[1] if name else None

    @property
    def where(self) -> str | None:
        """The innermost frame outside `multiprocessing` as `file:line function`, or None."""
        frames = [frame for frame in self.frames if "/multiprocessing/" not in frame.file]
        if not frames:
            return None
        return f"{frames[-1].file.rpartition('/')[2]}:{frames[-1].line} {frames[-1].function}"


def read(log: str) -> LastWords | None:
    """The last words in a log: the last exception that a process of sglang says it has hit. If there is none, the last
    traceback of the log. If there is no traceback, None."""
    blocks = [match.start() for match in re.finditer(re.escape(START), log)]
    if not blocks:
        return None
    said = {start: found[1] for start in blocks if (found := HIT.search(log[max(0, start - LINE) : start]))}
    start = max(said, default=blocks[-1])
    return _parse(log[start:], said.get(start, "tokenizer").lower())


def _parse(text: str, process: str) -> LastWords | None:
    frames: list[Frame] = []
    for line in text.splitlines()[1:]:
        if frame := FRAME.match(line):
            frames.append(Frame(frame["file"], int(frame["line"]), frame["function"], line))
        elif line.startswith(" ") and frames:
            last = frames[-1]
            frames[-1] = Frame(last.file, last.line, last.function, f"{last.text}\n{line}")
        elif error := ERROR.match(line):
            seen = tuple(frame for frame in frames if frame.file != recorder.__file__)
            return LastWords(error["error"], error["message"] or "", seen, process)
        else:
            return None
    return None
