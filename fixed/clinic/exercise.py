"""What notebook 05 grades an attempt with: the lab's two judges, and every order of events as the third."""

from __future__ import annotations

from functools import partial

from fixed.orders.judged import judge
from repro.lab.teaching import grade as grades

grade = partial(grades.grade, judge=judge)
