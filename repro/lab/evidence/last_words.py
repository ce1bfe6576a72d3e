"""Read a dead process's traceback out of a log, as it printed it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from repro.lab.evidence import recorder

FRAME = re.compile(r'^ +File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>\S+)$')
ERROR = re.compile(r"^(?P<error>[A-Za-z_][\w.]*)(?:: (?P<message>.*))?$")
START = "Traceback (most recent call last):"
HIT = re.compile(r"(\w+) hit an exception: \Z")  # as sglang's processes introduce the traceback of their end
LINE = 200  # characters before a traceback, in which that is said


@dataclass(frozen=True)
class Frame:
    """One frame of a traceback; `text` is what was printed for it, its source line included."""

    file: str
    line: int
    function: str
    text: str


@dataclass(frozen=True)
class LastWords:
    """The exception that ended a process, and how it got there (outermost frame first, the recorder's left out).
    `process` is what the process is to sglang: `scheduler`, `detokenizermanager`, ...; else `tokenizer`."""

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
    """The exception that a server process of sglang says it hit, else the log's last traceback, else None."""
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
