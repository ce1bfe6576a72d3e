"""The output of a command, as README and notebooks show it, and as the tests compare it."""

from __future__ import annotations

import re
from dataclasses import dataclass

FRAME = re.compile(r'^ +File "')
NAME = re.compile(r"(psm|sgl_shm_mm)_(?:[0-9]+_)?[0-9a-f]+(?:_[0-9a-f]+)?")  # Python's own names, and sglang's names


@dataclass(frozen=True)
class Rule:
    """What is replaced by what, and why."""

    pattern: str
    replacement: str
    why: str


PATHS = Rule(r'"[^"]*/(?:site-packages|lib/python3\.\d+)/', '"…/', "where Python is installed")
CHANCE = (  # in this order
    Rule(
        r"(no names|\d+ names?) in /dev/shm, no processes(; swept, nothing remains)?",
        "_ in /dev/shm, no processes",
        "how many semaphores a killed tree leaves depends on Python's version, and on who was killed first",
    ),
    Rule(r"\d+\.\d+ (s|ms|us)\b", r"_ \1", "times"),
    Rule(r"(; at [\w.]+\.py:)\d+(?= \w+; _ ms after the first act)", r"\1_", "a design's own lines move"),
    Rule(r'(…/multiprocessing/[^"]+", line )\d+', r"\1_", "CPython's own lines differ between its versions"),
    Rule(r"0x[0-9a-f]{6,}", "0x_", "addresses"),
    Rule("    …\n    …", "    …", "how many lines of a frame are left out: from 3.11 on there are marks below it"),
)
MEASURED = (
    Rule(r"\b\d+\.\d+\b(?!\.)", "_", "a fraction was measured"),
    Rule(r"\b\d+(?= us\b| bytes\b)", "_", "so was a count of microseconds or bytes"),
    Rule(r"(?<=\b1/)\d+", "_", "a ratio was measured"),
    Rule(r"\breached\b|\bMISSED\b", "_", "and so whether a goal was reached"),
    Rule(r" +", " ", "the width of a column"),
)


def shown(output: str) -> str:
    """`output` without this machine's paths, and without sglang's source lines in a traceback. A line's file and number
    are facts and stay. The text of the line is upstream's and is left out."""
    lines: list[str] = []
    in_frame = False
    for line in output.splitlines():
        if FRAME.match(line):
            in_frame = True
            lines += [_with(line, PATHS), "    …"]
        elif not (in_frame and line.startswith("    ")):
            in_frame = False
            lines.append(line.rstrip())
    return "\n".join(lines) + "\n"


def compared(output: str, names: dict[str, str] | None = None) -> str:
    """`shown(output)` without what differs from run to run. `names` maps each name in /dev/shm to its replacement. Pass
    the same dict for the next output of the same run."""
    return _with(numbered(shown(output), {} if names is None else names), *CHANCE)


def numbered(text: str, names: dict[str, str]) -> str:
    """`text` with its names in /dev/shm replaced by `psm_1`, `sgl_shm_mm_2`, ... in the order in which they appear.
    `names` maps the names to their replacements, and is extended."""
    return NAME.sub(lambda match: names.setdefault(match[0], f"{match[1]}_{len(names) + 1}"), text)


def without_measurements(output: str) -> str:
    """`output` without what a measurement gave. Whole numbers of other things stay, and so do all words."""
    return _with(output, *MEASURED)


def _with(text: str, *rules: Rule) -> str:
    for rule in rules:
        text = re.sub(rule.pattern, rule.replacement, text)
    return text
