"""The root cause removed: `wrap_shm_features` returns a new request and mutates nothing.

One place, and it covers both expansion points and any that is added later. What it does not change is the price: every
send still gets a segment of its own, with a full copy of the pixels.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from .detach import detach


def pure_wrap(wrap_shm_features: Callable[[Any], Any], request: Any) -> Any:
    """A wrapped copy of `request`, whose items and features stay as they are. Stands around `wrap_shm_features`
    (mm_utils.py, 0.5.9 on), which may mutate the copy as it likes."""
    return wrap_shm_features(detach(copy.copy(request)))


HOOKS = {"sglang.srt.managers.mm_utils.wrap_shm_features": pure_wrap}
