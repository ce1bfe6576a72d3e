"""This design removes the root cause: `wrap_shm_features` returns a new request and mutates nothing.

One place is changed. This covers both expansion points, and any that upstream adds later. The price stays the same:
every send gets a segment of its own, with a full copy of the pixels.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from .detach import detach


def pure_wrap(wrap_shm_features: Callable[[Any], Any], request: Any) -> Any:
    """Hook around `wrap_shm_features` (mm_utils.py, from 0.5.9 on). Returns a wrapped copy of `request`. The items and
    features of `request` itself stay as they are, because the original function gets the copy and mutates only this."""
    return wrap_shm_features(detach(copy.copy(request)))


HOOKS = {"sglang.srt.managers.mm_utils.wrap_shm_features": pure_wrap}
