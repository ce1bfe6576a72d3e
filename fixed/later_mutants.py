"""Mutants of a fixed release: each mutant breaks the release in one way.

A regression test for #24231 must fail for each of these mutants, although each still sends n + 1 requests.
`fixed.mutants` holds other mutants: those of the fix, at the expansion points.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

MANAGER = "sglang.srt.managers.tokenizer_manager.TokenizerManager"
WRAP = "sglang.srt.managers.mm_utils.wrap_shm_features"
UNWRAP = "sglang.srt.managers.mm_utils.unwrap_shm_features"
POINTER = "sglang.srt.managers.mm_utils.ShmPointerMMData"


@dataclass(frozen=True)
class LaterMutant:
    """One way to break a fixed release. `hooks` stand around sglang's functions, as the hooks of a design do. `undone`
    are the expansion points (1, 2) at which the fix is removed again."""

    name: str
    hooks: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    undone: Sequence[int] = ()


def the_pixels_of_the_send_before(original: Callable, manager: Any, request: Any, *arguments: Any) -> Any:
    """Each send carries the pixels of the send before it. With several prompts, these are the pixels of another
    prompt."""
    before = vars(manager).setdefault("sent_before", [])
    before.append([copy.copy(item) for item in request.mm_inputs.mm_items])
    request.mm_inputs = copy.copy(request.mm_inputs)
    request.mm_inputs.mm_items = [copy.copy(item) for item in before[-2:][0]]
    return original(manager, request, *arguments)


async def answers_in_reverse(original: Callable, *arguments: Any, **named: Any) -> AsyncIterator:
    """The samples of the last prompt come first."""
    async for answers in original(*arguments, **named):
        yield answers[::-1]


def lists_go_inline(original: Callable, request: Any) -> Any:
    """A list of tensors is not wrapped."""
    with _hidden([item for item in request.mm_inputs.mm_items if isinstance(item.feature, (list, tuple))]):
        return original(request)


def later_items_go_inline(original: Callable, request: Any) -> Any:
    """Only the first item is wrapped."""
    with _hidden(request.mm_inputs.mm_items[1:]):
        return original(request)


def everything_goes_inline(original: Callable, request: Any) -> Any:
    """Nothing is wrapped. So no name can be wrong, but shared memory is not used at all."""
    return request


def a_segment_is_made_and_lost(original: Callable, self: Any, *arguments: Any, **named: Any) -> None:
    """Each pointer makes two segments, and sends the name of the second one only."""
    original(self, *arguments, **named)
    original(self, *arguments, **named)


def shared_and_put_back(original: Callable, *arguments: Any, **named: Any) -> Any:
    """The items are shared again, and the features are put back after each send. A test that looks at the source
    request only after the last send sees no fault. But during a send, the source's items hold pointers."""
    held = [(item, item.feature) for item in _request(arguments).mm_inputs.mm_items]

    def put_back() -> None:
        for item, feature in held:
            item.feature = feature

    async def later() -> Any:
        try:
            return await original(*arguments, **named)
        finally:
            put_back()

    if inspect.iscoroutinefunction(original):
        return later()
    try:
        return original(*arguments, **named)
    finally:
        put_back()


def unwraps_nothing(original: Callable, request: Any) -> Any:
    """The scheduler does not unwrap: it continues with pointers in the place of features."""
    return request


def unlinks_nothing(original: Callable, self: Any) -> Any:
    """The scheduler copies the pixels, and does not unlink the name."""
    return self.tensor.clone()


def _request(arguments: Sequence[Any]) -> Any:
    return next(argument for argument in arguments[1:] if hasattr(argument, "mm_inputs"))


@contextmanager
def _hidden(items: Sequence[Any]) -> Iterator[None]:
    """While the context lasts, these items have no feature."""
    features = [item.feature for item in items]
    for item in items:
        item.feature = None
    try:
        yield
    finally:
        for item, feature in zip(items, features, strict=True):
            item.feature = feature


LATER_MUTANTS = (
    LaterMutant("only_expansion_point_1", undone=(2,)),
    LaterMutant("only_expansion_point_2", undone=(1,)),
    LaterMutant("shared_and_put_back", {f"{MANAGER}._send_one_request": shared_and_put_back}, undone=(1, 2)),
    LaterMutant("the_pixels_of_the_send_before", {f"{MANAGER}._send_one_request": the_pixels_of_the_send_before}),
    LaterMutant("answers_in_reverse", {f"{MANAGER}._handle_batch_request": answers_in_reverse}),
    LaterMutant("lists_go_inline", {WRAP: lists_go_inline}),
    LaterMutant("later_items_go_inline", {WRAP: later_items_go_inline}),
    LaterMutant("everything_goes_inline", {WRAP: everything_goes_inline}),
    LaterMutant("a_segment_is_made_and_lost", {f"{POINTER}.__init__": a_segment_is_made_and_lost}),
    LaterMutant("unwraps_nothing", {UNWRAP: unwraps_nothing}),
    LaterMutant("unlinks_nothing", {f"{POINTER}.materialize": unlinks_nothing}),
)
