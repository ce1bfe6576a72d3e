"""What the lab gives the lifted `SchedulerRequestReceiver` (from 0.5.19 on) in place of the rest of sglang, and why."""

from __future__ import annotations

from enum import Enum
from types import SimpleNamespace
from typing import Any, Protocol

from repro.lab.upstream.standin_data import BaseBatchReq


class Ranks(Protocol):
    """The tensor-parallel ranks of one server, as one of them sees the others: `size` is how many there are."""

    size: int

    def maximum(self, value: int) -> int:
        """The largest value that any rank gives. Returns when every rank has given one."""


class ReduceOp(Enum):
    """For torch.distributed's: the one that the receiver names."""

    MAX = "max"


class MMInputsProcessError(Exception):
    """For `MMInputsProcessError` (io_struct.py): stands in the place of a request's `mm_inputs` that cannot be read."""


class BatchReq(BaseBatchReq):
    """For the batched requests (io_struct.py): named by type checks, never made here."""


class SchedulerRequestReceiver:
    """The base of the lifted `SchedulerRequestReceiver`: the ranks, and a model that takes images."""

    def __init__(self, ranks: Ranks) -> None:
        self.model_config = SimpleNamespace(is_multimodal=True)
        self.ps = SimpleNamespace(tp_size=ranks.size)
        self.tp_cpu_group = ranks
        _parallel.tp_size, _parallel.tp_group = ranks.size, SimpleNamespace(cpu_group=ranks)


def barrier(group: Ranks) -> None:
    """For torch.distributed's: the lab's ranks have waited for each other just before."""


def all_reduce(values: Any, op: ReduceOp, group: Ranks) -> None:
    """For torch.distributed's: the tensor `values` of one element becomes the largest of all ranks."""
    values[0] = group.maximum(int(values[0]))


def get_parallel() -> SimpleNamespace:
    """For sglang's (runtime_context.py): how the work is divided among ranks."""
    return _parallel


_parallel = SimpleNamespace(attn_dp_enabled=False, enable_dp_attention=False, tp_size=1, tp_group=None)
WHY = {
    "SchedulerRequestReceiver": (SchedulerRequestReceiver, "what the lifted method looks at: the ranks, a model"),
    "MMInputsProcessError": (MMInputsProcessError, "an error as plain data"),
    "BatchTokenizedGenerateReqInput": (BatchReq, "named by type checks only"),
    "BatchTokenizedEmbeddingReqInput": (BatchReq, "named by type checks only"),
    "get_parallel": (get_parallel, "how many ranks there are"),
    "barrier": (barrier, "nothing: the lab's ranks have waited just before"),
    "all_reduce": (all_reduce, "the largest value of all ranks, over pipes and not over torch.distributed"),
    "ReduceOp": (ReduceOp, "a name"),
}
