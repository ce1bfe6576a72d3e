"""The idea of #19784 and #26304: each time that a pointer is pickled, it gets a new segment.

So requests may share a pointer, and `wrap_shm_features` may mutate: the source request then holds the pointer in the
place of its feature. The drawback is that pickling now has a side effect and can fail. If a pointer is pickled twice
for one send, as by a retry, there are two segments, and nobody unlinks one of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def keep(init: Callable[..., None], self: Any, *arguments: Any, **named: Any) -> None:
    """Hook around `ShmPointerMMData.__init__` (mm_utils.py). Makes no segment, and stores in the pointer a function
    that makes one later."""
    self._shm_handle = None
    self.take_segment = lambda: init(self, *arguments, **named)


def allocate(getstate: Callable[[Any], dict[str, Any]], self: Any) -> dict[str, Any]:
    """Hook around `ShmPointerMMData.__getstate__` (mm_utils.py). Returns the state to pickle, with the name of a new
    segment. A pointer that came from another process cannot make a segment, and keeps its name."""
    if hasattr(self, "take_segment"):
        self.take_segment()
    return getstate(self)


HOOKS = {
    "sglang.srt.managers.mm_utils.ShmPointerMMData.__init__": keep,
    "sglang.srt.managers.mm_utils.ShmPointerMMData.__getstate__": allocate,
}
