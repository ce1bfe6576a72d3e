"""The output of a command as README and notebooks show it, and as a test compares it."""

from __future__ import annotations

import re

ENVIRONMENT = re.compile(r'"[^"]*/(?:site-packages|lib/python3\.\d+)/')
# How many semaphores a killed tree leaves to be swept depends on Python's version, and on who was killed first.
LEFT = re.compile(r"(no names|\d+ names?) in /dev/shm, no processes(; swept, nothing remains)?")
FRAME = re.compile(r'^ +File "')
NAME = re.compile(r"(psm|sgl_shm_mm)_(?:[0-9]+_)?[0-9a-f]+(?:_[0-9a-f]+)?")  # as Python makes them, and as sglang does


def shown(output: str) -> str:
    """`output` without this machine's paths, and with sglang's source lines in a traceback left out: where a line
    is, is a fact; the line is upstream's."""
    lines: list[str] = []
    in_frame = False
    for line in output.splitlines():
        if FRAME.match(line):
            in_frame = True
            lines += [ENVIRONMENT.sub('"…/', line), "    …"]
        elif not (in_frame and line.startswith("    ")):
            in_frame = False
            lines.append(line.rstrip())
    return "\n".join(lines) + "\n"


def compared(output: str) -> str:
    """`shown(output)` without what differs from run to run: names in /dev/shm, seconds, CPython's line numbers."""
    text = shown(output).replace("    …\n    …", "    …")
    text = re.sub(r"\d+\.\d+ s\b", "_ s", LEFT.sub("_ in /dev/shm, no processes", numbered(text, {})))
    return re.sub(r'(…/multiprocessing/[^"]+", line )\d+', r"\1_", text)


def numbered(text: str, names: dict[str, str]) -> str:
    """`text` with its names in /dev/shm as `psm_1`, `sgl_shm_mm_2`, ... in the order in which they turn up; `names`
    keeps what each has become, for the next text of the same run."""
    return NAME.sub(lambda match: names.setdefault(match[0], f"{match[1]}_{len(names) + 1}"), text)


def without_measurements(output: str) -> str:
    """`output` without what a measurement gave: decimal fractions, counts of microseconds and bytes, how often one goes
    into the other, whether a goal was reached. Whole numbers of other things stay, and so do all words."""
    text = re.sub(r"\b\d+\.\d+\b(?!\.)|\b\d+(?= us\b| bytes\b)|(?<=\b1/)\d+|\breached\b|\bMISSED\b", "_", output)
    return re.sub(r" +", " ", text)
