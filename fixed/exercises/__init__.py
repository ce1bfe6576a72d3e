"""The notebooks' exercises outside Jupyter: the reader edits a file, and at each save the file is graded, with the next
hint only.

`make exercise` watches the file of the first exercise. `python -m fixed.exercises --help` tells more.
"""

from __future__ import annotations

from fixed.exercises.exercise import Exercise, Told
from fixed.exercises.fix import FIX
from fixed.exercises.hook import HOOK
from fixed.exercises.protocol import PROTOCOL

EXERCISES = {exercise.name: exercise for exercise in (FIX, HOOK, PROTOCOL)}

__all__ = ["EXERCISES", "Exercise", "Told"]
