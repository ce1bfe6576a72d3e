"""An owner table: the tokenizer owns the segments, counts who still needs them, and frees them. For its lesson.

There is one segment for all sends, and there are no links. All sends name the same file, and only the owner unlinks
the file. sglang's scheduler unlinks every pointer that the scheduler receives. So this design sends no pointer: the
message restores itself, by PyTorch's own `from_file`, to a tensor that is mapped privately. The scheduler's code stays
as it is, and here the lesson begins.

**What the owner would need** is an answer to "has everybody opened the file?" for every way in which a batch can end.
After success the owner knows: every sample has been answered. After an exception, or when the client goes away, the
owner does not know. If the owner freed the segment then, the scheduler might be about to open the file, and would die
(from 0.5.19 on: would fail a request). If the owner does not free the segment, the segment is leaked. This design
leaks. Upstream's attempts (#23685, and a fork's `ShmOwnerTable`) add what is missing: consumers that acknowledge,
also for aborted requests. The design would also need a broadcast that knows such tensors: here, rank 0 sends the
pixels themselves to the other tensor-parallel ranks, and #21465 had removed that. The link count of
`one_segment_many_names` is the same table, kept by the kernel. There, a consumer acknowledges by unlinking.
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
    """The segments of one batch: tensor and name, by the tensor's id."""

    owned: dict[int, tuple[Any, str]] = field(default_factory=dict)

    def name_of(self, tensor: Any) -> str:
        """The one name of the tensor's segment, which is made when it is first asked for. Raises OSError."""
        if id(tensor) not in self.owned:
            self.owned[id(tensor)] = tensor, new_segment(tensor)
        return self.owned[id(tensor)][1]

    def free(self) -> None:
        """Unlink everything: nobody needs it any more."""
        remove([name for _, name in self.owned.values()])


class Pointer:
    """Pickled, it is a recipe: map the file `shm_name` privately, and give it this shape."""

    def __init__(self, tensor: Any, name: str) -> None:
        self.shm_name, self.shape, self.dtype, self.size = name, tensor.shape, tensor.dtype, tensor.numel()

    def __reduce__(self) -> tuple:
        import torch

        restore = functools.partial(
            torch.from_file, f"{SHM}/{self.shm_name}", shared=False, size=self.size, dtype=self.dtype
        )
        return torch.reshape, (Call(restore), self.shape)


class Call:
    """Pickled, it is the value of a call."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function

    def __reduce__(self) -> tuple:
        return self.function, ()


_table: ContextVar[OwnerTable | None] = ContextVar("owner table", default=None)


def handle_batch_request(original: Callable, manager: Any, obj: Any, *arguments: Any, **named: Any) -> AsyncIterator:
    """Answers, as from `TokenizerManager._handle_batch_request` (tokenizer_manager.py); frees the batch's segments
    after the last of them, and leaves them where there is none."""
    answers = original(manager, obj, *arguments, **named)
    return answers if getattr(obj, "parallel_sample_num", 1) == 1 else _answers_of(answers, OwnerTable())


async def _answers_of(answers: AsyncIterator, table: OwnerTable) -> AsyncIterator:
    async with contextlib.aclosing(made_with(_table, table, answers)) as made:
        async for answer in made:
            yield answer
    table.free()


def wrap_shm_features(original: Callable[[Any], Any], request: Any) -> Any:
    """A copy of `request` in which every `ShmPointerMMData` that the wrap made is a `Pointer`. Stands around
    `wrap_shm_features` (mm_utils.py)."""
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
    """Take the name of the tensor's one segment. Stands around `ShmPointerMMData.__init__` (mm_utils.py)."""
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
