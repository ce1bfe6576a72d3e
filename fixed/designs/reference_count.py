"""An owner table: the tokenizer owns the segments, and frees them when nobody needs them. The kit has it as a lesson.

There is one segment for all sends, and there are no links. All sends carry the same name, and only the owner unlinks
it. sglang's scheduler unlinks the name of every pointer that it receives. So this design sends no pointer. Unpickling
the message calls PyTorch's own `from_file`, which gives a tensor that is mapped privately. The scheduler's code stays
as it is.

**What the owner would need** is an answer to "has everybody opened the name?" for every way in which a batch can end.
After success the owner knows: every sample has been answered. After an exception, or when the client goes away, the
owner does not know. If the owner freed the segment then, a scheduler that is about to open the name would die (from
0.5.19 on: would fail a request). If the owner does not free the segment, the segment is leaked. This design leaks it.
Upstream's attempts (#23685, and a fork's `ShmOwnerTable`) add the missing part: consumers acknowledge that they have
opened the name, also for aborted requests. The design has a second drawback: rank 0 sends the pixels themselves to the
other tensor-parallel ranks, which #21465 had ended. To avoid that, the broadcast would have to know such tensors.

`one_segment_many_names` has the same table: the link count, which the kernel keeps. There, a consumer acknowledges by
unlinking its name.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from .one_segment_many_names import made_with, new_segment
from .pure_wrap import pure_wrap
from .shm_names import SHM, remove


@dataclass
class OwnerTable:
    """The segments of one batch. `owned` maps the id of a tensor to the tensor and the name of its segment."""

    owned: dict[int, tuple[Any, str]] = field(default_factory=dict)

    def name_of(self, tensor: Any) -> str:
        """Return the only name of the tensor's segment. The first call makes the segment. Raises OSError if that
        fails."""
        if id(tensor) not in self.owned:
            self.owned[id(tensor)] = tensor, new_segment(tensor)
        return self.owned[id(tensor)][1]

    def free(self) -> None:
        """Unlink all names of the table. Call this only when no consumer will open one of them."""
        remove([name for _, name in self.owned.values()])


class Pointer:
    """Stands in the message for a feature. Unpickling gives no Pointer but a tensor: the segment of the name
    `shm_name`, mapped privately, in the feature's shape."""

    def __init__(self, tensor: Any, name: str) -> None:
        self.shm_name, self.shape, self.dtype, self.size = name, tensor.shape, tensor.dtype, tensor.numel()

    def __reduce__(self) -> tuple:
        import torch

        restore = functools.partial(
            torch.from_file, f"{SHM}/{self.shm_name}", shared=False, size=self.size, dtype=self.dtype
        )
        return torch.reshape, (Call(restore), self.shape)


class Call:
    """Unpickling gives no Call but the value that `function` returns."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function

    def __reduce__(self) -> tuple:
        return self.function, ()


_table: ContextVar[OwnerTable | None] = ContextVar("owner table", default=None)


def handle_batch_request(original: Callable, manager: Any, obj: Any, *arguments: Any, **named: Any) -> AsyncIterator:
    """Hook around `TokenizerManager._handle_batch_request` (tokenizer_manager.py). Returns its answers. Frees the
    batch's segments after the last answer. If the last answer does not come, the segments are leaked."""
    answers = original(manager, obj, *arguments, **named)
    return answers if getattr(obj, "parallel_sample_num", 1) == 1 else _answers_of(answers, OwnerTable())


async def _answers_of(answers: AsyncIterator, table: OwnerTable) -> AsyncIterator:
    async with contextlib.aclosing(made_with(_table, table, answers)) as made:
        async for answer in made:
            yield answer
    table.free()


def wrap_shm_features(original: Callable[[Any], Any], request: Any) -> Any:
    """Hook around `wrap_shm_features` (mm_utils.py). Returns a wrapped copy of `request`, which holds a `Pointer` in
    the place of each `ShmPointerMMData` that the original function made."""
    wrapped = pure_wrap(original, request)
    for item in wrapped.mm_inputs.mm_items if _table.get() and getattr(wrapped, "mm_inputs", None) else []:
        for name, value in vars(item).items():
            if isinstance(value, (list, tuple)):
                setattr(item, name, type(value)(map(_counted, value)))
            else:
                setattr(item, name, _counted(value))
    return wrapped


def _counted(value: Any) -> Any:
    return getattr(value, "counted", value)


def name_instead_of_segment(init: Callable[..., None], self: Any, tensor: Any, *arguments: Any, **named: Any) -> None:
    """Hook around `ShmPointerMMData.__init__` (mm_utils.py). Within a batch, gives `self` the name of the tensor's only
    segment, as a `Pointer`. Outside a batch, makes a segment as released. Raises OSError."""
    if table := _table.get():
        self._shm_handle = None
        self.counted = Pointer(tensor, table.name_of(tensor))
    else:
        init(self, tensor, *arguments, **named)


HOOKS = {
    "sglang.srt.managers.tokenizer_manager.TokenizerManager._handle_batch_request": handle_batch_request,
    "sglang.srt.managers.mm_utils.wrap_shm_features": wrap_shm_features,
    "sglang.srt.managers.mm_utils.ShmPointerMMData.__init__": name_instead_of_segment,
}
