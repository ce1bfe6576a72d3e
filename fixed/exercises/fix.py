"""The exercise of notebook 05: `prepare`, the fix of #24231, graded as in the notebook."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fixed.exercises.exercise import NOT_YET, PASSED, Exercise, Told
from fixed.exercises.grade import grade

TEMPLATE = '''"""Exercise of notebook 05: write the fix of #24231.

The lab calls `prepare(request)` on every copy of a request, at both expansion points, before the copy is sent. The copy
is shallow. Change `prepare` so that the copy owns whatever wrapping will change, and nothing more. Not every request
has an image. Save this file: you are told at once what is still wrong.
"""

import copy  # noqa: F401


def prepare(request):
    return request
'''


def judge(prepare: Callable[[Any], Any]) -> Told:
    """Return the grade of `prepare`. The list of faults is left out, because it is only useful beside a run."""
    grades = grade(prepare)
    lines = [f"{'passed' if grades.passed else 'not yet'}: {grades.case}, {grades.verdict}", f"hint: {grades.hint}"]
    if grades.passed:
        lines.insert(1, f"price: {grades.copied:,} bytes of tensor storage copied for each send")
    return Told(PASSED if grades.passed else NOT_YET, "\n".join(lines))


FIX = Exercise(
    "fix", "05_the_fix.ipynb", "prepare", TEMPLATE, judge, ("torch",), lambda: grade(lambda request: request)
)
