"""The idea of #19784 and #26304: a pointer takes its segment when it is pickled, so each pickling has one of its own.

Sharing a pointer becomes harmless, and the wrap may go on mutating: the source request keeps the pointer in the place
of its feature. Pickling now has an effect and can fail; and a pointer that is pickled twice for one send, as by a
retry, costs a second segment that nobody unlinks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def keep(init: Callable[..., None], self: Any, *arguments: Any, **named: Any) -> None:
    """Remember how to make the segment, and make none. Stands around `ShmPointerMMData.__init__` (mm_utils.py)."""
    self._shm_handle = None
    self.take_segment = lambda: init(self, *arguments, **named)


def allocate(getstate: Callable[[Any], dict[str, Any]], self: Any) -> dict[str, Any]:
    """The state to pickle, with the name of a new segment. Stands around `ShmPointerMMData.__getstate__`. A pointer
    that came from another process has nothing to make a segment from, and keeps its name."""
    if hasattr(self, "take_segment"):
        self.take_segment()
    return getstate(self)


HOOKS = {
    "sglang.srt.managers.mm_utils.ShmPointerMMData.__init__": keep,
    "sglang.srt.managers.mm_utils.ShmPointerMMData.__getstate__": allocate,
}
