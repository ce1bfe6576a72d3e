"""Ways to fix #24231 on sglang's own code: the designs, one module each. These modules need nothing else of this kit,
because the hotfix (`fixed/hotfix`) carries them into a server.

A design plugs in in one of two ways. `prepare` is applied to the copied request at the expansion points. Or `hooks`
stand around functions of sglang, in the tokenizer's process. Then a call of the function becomes
`hook(original, *arguments)`. sglang's plugins call such a hook `HookType.AROUND`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from . import (
    deepcopy,
    detach,
    one_segment_many_names,
    pure_wrap,
    reference_count,
    segment_per_pickle,
    segment_pool,
    shm_names,
    warm_segments,
)

HANDLER = "_handle_batch_request"  # where the expansion points are
SCHEDULERS = ("__setstate__", "materialize", "unwrap_shm_features", "has_shm_features")  # they run in the scheduler


@dataclass(frozen=True)
class Design:
    """One way to fix #24231, or a mutant, which fails to fix it. `owner` says in words who frees a segment. `prepare`
    is applied to the copied request at the expansion points `points`. `hooks` maps the path of a function of sglang to
    the hook around it. `kept` returns the names that the design keeps in /dev/shm between requests, and `drain` gives
    them up. `modules` are the modules that hold the design's code."""

    name: str
    owner: str = ""
    prepare: Callable[[Any], Any] | None = None
    points: Sequence[int] = (1, 2)
    hooks: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    kept: Callable[[], Sequence[str]] = tuple
    drain: Callable[[], object] = tuple
    modules: Sequence[Any] = ()

    @property
    def places(self) -> list[str]:
        """The places at which the design changes sglang: expansion points, and functions."""
        points = [f"{HANDLER}, point {point}" for point in self.points if self.prepare]
        return points + [path.removeprefix("sglang.srt.") for path in self.hooks]

    @property
    def of_the_scheduler(self) -> list[str]:
        """Those of `places` that run in the scheduler's process."""
        return [place for place in self.places if place.split(".")[-1] in SCHEDULERS]


def _design(module: Any, owner: str, *needs: Any, name: str = "") -> Design:
    return Design(
        name=name or module.__name__.rpartition(".")[2],
        owner=owner,
        prepare=getattr(module, "PREPARE", None),
        hooks=getattr(module, "HOOKS", {}),
        kept=getattr(module, "kept", tuple),
        drain=getattr(module, "drain", tuple),
        modules=(module, *needs),
    )


THE_CONSUMER = "each consumer its segment"
THE_KERNEL = "each consumer its name, the kernel the memory"
COPIES = _design(detach, THE_CONSUMER, name="copies_at_both_points")
DEEPCOPY = _design(deepcopy, THE_CONSUMER)
PURE_WRAP = _design(pure_wrap, THE_CONSUMER, detach)
SEGMENT_PER_PICKLE = _design(segment_per_pickle, THE_CONSUMER)
ONE_SEGMENT = _design(one_segment_many_names, THE_KERNEL, shm_names, pure_wrap, detach)
WARM_SEGMENTS = _design(warm_segments, THE_KERNEL, segment_pool, one_segment_many_names, shm_names, pure_wrap, detach)
REFERENCE_COUNT = _design(reference_count, "the tokenizer, after the last answer", pure_wrap, detach)
DESIGNS = (COPIES, DEEPCOPY, PURE_WRAP, SEGMENT_PER_PICKLE, ONE_SEGMENT, REFERENCE_COUNT, WARM_SEGMENTS)
