"""The second exercise of notebook 06: the fix of #24231 as a hook around one function of sglang."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fixed.clinic import examine, price
from fixed.clinic.battery import requests
from fixed.designs import PURE_WRAP, Design
from fixed.exercises.exercise import PASSED, Exercise, Told, not_yet
from repro.lab.lifted import run

WRAP = "sglang.srt.managers.mm_utils.wrap_shm_features"
LIMIT = 10.0  # seconds for a first request
N, SIZE = 2, 224  # the samples, and the side of the image in pixels, of the run that has a price
TEMPLATE = '''"""Exercise of notebook 06: write the fix of #24231 in one place, as a hook.

The lab calls `my_wrap(wrap_shm_features, request)` whenever sglang calls `wrap_shm_features(request)`, and sends what
`my_wrap` returns. Change `my_wrap` so that no send changes what another send needs. Not every request has an image.
Save this file: you are told at once what the clinic's battery says.
"""

import copy  # noqa: F401


def my_wrap(wrap_shm_features, request):
    return wrap_shm_features(request)
'''
CRASHED = "`wrap_shm_features` mutates the request that it is given. Give it a request whose items nobody else has."
RAISED = "`my_wrap` raised an error. It has to return a request, also for a request without an image."
WRONG = "The scheduler lived, but the answers are wrong. `my_wrap` has to return a request with all of its features."
INLINE = "Right, but without shared memory: each message holds the pixels. Can you keep shared memory?"
ONE_PLACE = "A hook in this one place also covers an expansion point that is added later."
ORDERS = "Each of the runs was right, but in another order of the same events, one is not."


def judge(my_wrap: Callable[..., Any]) -> Told:
    """Return the grade of `my_wrap`: what is wrong, with a hint, or a pass with the number of copies."""
    design = Design("my_wrap", hooks={WRAP: my_wrap})
    if run(requests(), n=N, fix=design, timeout=LIMIT).verdict.outcome == "hung":
        return not_yet(f"a request with n = {N} was not sent within {LIMIT:g} s", "Look for a loop that has no end.")
    health = examine(design)
    if health.crashed:
        return not_yet(f"the scheduler died of {health.crashed}", CRASHED)
    if health.wrong:
        return not_yet(health.wrong[0], RAISED if health.wrong[0].startswith("refused") else WRONG)
    if not health.correct:
        return not_yet(f"every order: {health.orders}", ORDERS)
    paid = price(design, N, SIZE, rounds=1)
    lines = [
        "passed: the battery finds no fault",
        f"price: the pixels are copied {round(paid.bytes_copied / paid.feature_bytes)} times for n = {N}",
        f"hint: {ONE_PLACE if paid.shm_peak_bytes else INLINE}",
    ]
    return Told(PASSED, "\n".join(lines))


HOOK = Exercise(
    "hook",
    "06_fix_clinic.ipynb",
    "my_wrap",
    TEMPLATE,
    judge,
    ("torch",),
    lambda: examine(PURE_WRAP),
)
