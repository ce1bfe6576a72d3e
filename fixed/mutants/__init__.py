"""Mutants of the fix: each looks like the fix, each is wrong, and each fails in its own way. They test the battery,
which has to catch every one of them."""

from __future__ import annotations

import copy
from typing import Any

from fixed.designs import Design
from fixed.designs.detach import detach


def only_mm_inputs(request: Any) -> Any:
    """`mm_inputs` is copied, but neither the list nor the items."""
    if request.mm_inputs:
        request.mm_inputs = copy.copy(request.mm_inputs)
    return request


def new_list_of_the_same_items(request: Any) -> Any:
    """The request gets a list of its own, with the same items in it."""
    if request.mm_inputs:
        request.mm_inputs = copy.copy(request.mm_inputs)
        request.mm_inputs.mm_items = list(request.mm_inputs.mm_items)
    return request


def new_items_in_the_shared_list(request: Any) -> Any:
    """New items are put into the list that all copies share."""
    if request.mm_inputs:
        items = request.mm_inputs.mm_items
        items[:] = [copy.copy(item) for item in items]
    return request


def new_items_in_the_shared_mm_inputs(request: Any) -> Any:
    """New items are put into a new list, and this list into the `mm_inputs` that all copies share."""
    if request.mm_inputs:
        request.mm_inputs.mm_items = [copy.copy(item) for item in request.mm_inputs.mm_items]
    return request


def the_holder_only(request: Any) -> Any:
    """The request is copied once more, but nothing below it."""
    return copy.copy(request)


AS_RELEASED = Design("as_released")
MUTANTS = (
    Design("only_expansion_point_1", prepare=detach, points=(1,)),
    Design("only_expansion_point_2", prepare=detach, points=(2,)),
    *(
        Design(prepare.__name__, prepare=prepare)
        for prepare in (
            only_mm_inputs,
            new_list_of_the_same_items,
            new_items_in_the_shared_list,
            new_items_in_the_shared_mm_inputs,
            the_holder_only,
        )
    ),
)
