"""`grade`, which notebook 05 calls. It grades an attempt with the lab's two judges, and with a third judge, which looks
at every order of events."""

from __future__ import annotations

from functools import partial

from fixed.orders.judged import judge
from repro.lab.teaching import grade as grades

grade = partial(grades.grade, judge=judge)
