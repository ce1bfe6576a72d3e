"""A deep copy at both expansion points. The title of #24231 promises it, but the code of #24231 does not do it.

This design is right but expensive: each send first clones the pixels, and then copies them into a segment.
"""

from __future__ import annotations

import copy
from typing import Any


def deeply(request: Any) -> Any:
    """Return `request`, a `TokenizedGenerateReqInput`. Now it owns its `mm_inputs` and everything in them: the list,
    the items and the features."""
    if getattr(request, "mm_inputs", None):
        request.mm_inputs = copy.deepcopy(request.mm_inputs)
    return request


PREPARE = deeply
