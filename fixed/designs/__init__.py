"""Ways to fix #24231, a module each, on sglang's own code. Nothing in here needs the rest of this kit: the hotfix
(`fixed/hotfix`) carries these modules into a server.

A design plugs in in one of two ways. `prepare` is applied to the copied request at the expansion points. `hooks`
stand around functions of sglang, in the tokenizer's process: a call becomes `hook(original, *arguments)`, which is
what sglang's plugins call `HookType.AROUND`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from . import copies_at_both_points, deepcopy, one_segment_many_names, pure_wrap, reference_count, segment_per_pickle

HANDLER = "_handle_batch_request"  # where the expansion points are


@dataclass(frozen=True)
class Design:
    """One way to fix it, or not to. `owner` says who frees a segment; `points` are the expansion points at which
    `prepare` is applied; `modules` hold its code."""

    name: str
    owner: str = ""
    prepare: Callable[[Any], Any] | None = None
    points: Sequence[int] = (1, 2)
    hooks: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    modules: Sequence[Any] = ()

    @property
    def places(self) -> list[str]:
        """Where sglang would be changed: expansion points, and functions."""
        points = [f"{HANDLER}, point {point}" for point in self.points if self.prepare]
        return points + [path.removeprefix("sglang.srt.") for path in self.hooks]

    @property
    def knobs(self) -> dict[str, Any]:
        """How the lab is told: arguments of `repro.lab.pipeline.run`."""
        return {"prepare": self.prepare, "points": self.points, "hooks": self.hooks}


COPIES = Design(
    "copies_at_both_points",
    "each consumer its own segment",
    prepare=copies_at_both_points.detach,
    modules=(copies_at_both_points,),
)
DEEPCOPY = Design("deepcopy", COPIES.owner, prepare=deepcopy.deeply, modules=(deepcopy,))
PURE_WRAP = Design("pure_wrap", COPIES.owner, hooks=pure_wrap.HOOKS, modules=(copies_at_both_points, pure_wrap))
SEGMENT_PER_PICKLE = Design(
    "segment_per_pickle", COPIES.owner, hooks=segment_per_pickle.HOOKS, modules=(segment_per_pickle,)
)
ONE_SEGMENT = Design(
    "one_segment_many_names",
    "each consumer its own name; the kernel the memory",
    hooks=one_segment_many_names.HOOKS,
    modules=(copies_at_both_points, pure_wrap, one_segment_many_names),
)
REFERENCE_COUNT = Design(
    "reference_count",
    "the tokenizer, after the last answer",
    hooks=reference_count.HOOKS,
    modules=(reference_count,),
)
DESIGNS = (COPIES, DEEPCOPY, PURE_WRAP, SEGMENT_PER_PICKLE, ONE_SEGMENT, REFERENCE_COUNT)
