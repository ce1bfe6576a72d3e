"""What the title of #24231 promises and its code does not do: at both expansion points, a deep copy.

Right, and dear: the pixels are cloned for the copy, and then copied once more into its segment.
"""

from __future__ import annotations

import copy
from typing import Any


def deeply(request: Any) -> Any:
    """Return `request`, which now owns all that hangs on its `mm_inputs`, the tensors included."""
    if getattr(request, "mm_inputs", None):
        request.mm_inputs = copy.deepcopy(request.mm_inputs)
    return request


PREPARE = deeply
