"""Upstream's fix, #24231: at both expansion points, the copied request gets items of its own.

`wrap_shm_features` still mutates the items that it gets, but now no other request shares these items. The fix has to be
at both places; a third expansion point without it would bring the crash back. Every send wraps its features again, so
every sample costs a segment and a full copy of the pixels.
"""

from __future__ import annotations

import copy
from typing import Any


def detach(request: Any) -> Any:
    """Return `request`, a `TokenizedGenerateReqInput`. Now it owns its `mm_inputs`, its list of items and its items.
    The features, megabytes of pixels, are still shared. Stands for the lines that #24231 added to
    `_handle_batch_request` (tokenizer_manager.py, 0.5.13)."""
    if getattr(request, "mm_inputs", None):
        request.mm_inputs = copy.copy(request.mm_inputs)
        request.mm_inputs.mm_items = [copy.copy(item) for item in request.mm_inputs.mm_items]
    return request


PREPARE = detach
