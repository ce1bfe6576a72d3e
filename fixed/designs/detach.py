"""Upstream's fix, #24231: at both expansion points, the copied request gets items of its own.

The wrap goes on mutating what it is given, but by then that is nobody else's. Two places to keep in mind, and any
future third one is a crash again. Every send wraps anew, so every sample costs a segment and a full copy of its pixels.
"""

from __future__ import annotations

import copy
from typing import Any


def detach(request: Any) -> Any:
    """Return `request` (a `TokenizedGenerateReqInput`), which now owns its `mm_inputs`, its list of items and its
    items; the features themselves, megabytes of pixels, are still shared. Stands for the lines that #24231 added to
    `_handle_batch_request` (tokenizer_manager.py, 0.5.13)."""
    if getattr(request, "mm_inputs", None):
        request.mm_inputs = copy.copy(request.mm_inputs)
        request.mm_inputs.mm_items = [copy.copy(item) for item in request.mm_inputs.mm_items]
    return request


PREPARE = detach
