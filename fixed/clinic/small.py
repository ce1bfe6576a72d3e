"""How a design does with little room: Docker's default, a /dev/shm of 64 MB, and one image of 30 MB with n = 8."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from fixed.designs import DESIGNS
from repro.lab.evidence.verdict import Refused, Verdict
from repro.lab.lifted import small_shm

MEBIBYTES, SIZE, N = 64, 1120, 8
SLOW = ["--ranks", "2", "--late", "0.1"]  # consumers that take their time, as a real one does: segments pile up


def outcomes() -> dict[str, str]:
    """What became of the run, by the design's name: `8 answers`, or of what the tokenizer died; where nobody may
    mount a small /dev/shm, nothing. Two at a time."""
    try:
        small_shm.namespace(MEBIBYTES)
    except Refused:
        return {}
    with ThreadPoolExecutor(2) as two:
        names = [design.name for design in DESIGNS]
        return dict(zip(names, two.map(_outcome, names), strict=True))


def _outcome(design: str) -> str:
    arguments = ["--n", str(N), "--size", str(SIZE), "--fix", design, *SLOW]
    return _told(small_shm.lab(arguments, mebibytes=MEBIBYTES))


def _told(verdict: Verdict) -> str:
    if verdict.outcome == "survived":
        return f"{len(verdict.answers)} answers"
    return (verdict.error or verdict.outcome).removeprefix("tokenizer killed by ")
