"""The stand-ins for the lifted `SchedulerRequestReceiver` (from 0.5.19 on), each with its reason."""

from __future__ import annotations

from enum import Enum
from types import SimpleNamespace
from typing import Any, Protocol

from repro.lab.upstream.standin_data import BaseBatchReq


class Ranks(Protocol):
    """The tensor-parallel ranks of one server, from the side of one rank. `size` is 1 for a single rank, else 2 or
    more."""

    size: int

    def maximum(self, value: int) -> int:
        """The largest value that any rank gives. Returns when every rank has given its value."""


class ReduceOp(Enum):
    """Stands for torch.distributed's `ReduceOp`: only the member that the receiver names."""

    MAX = "max"


class MMInputsProcessError(Exception):
    """Stands for `MMInputsProcessError` (io_struct.py): the error that replaces a request's `mm_inputs` if these cannot
    be read."""


class BatchReq(BaseBatchReq):
    """Stands for the batched requests (io_struct.py): named by type checks, never made here."""


class SchedulerRequestReceiver:
    """The base of the lifted `SchedulerRequestReceiver`: the ranks, and a model that takes images."""

    def __init__(self, ranks: Ranks) -> None:
        self.model_config = SimpleNamespace(is_multimodal=True)
        self.ps = SimpleNamespace(tp_size=ranks.size)
        self.tp_cpu_group = ranks
        _parallel.tp_size, _parallel.tp_group = ranks.size, SimpleNamespace(cpu_group=ranks)


def barrier(group: Ranks) -> None:
    """Stands for torch.distributed's `barrier`. It does nothing: the lab's ranks have waited for each other just
    before."""


def all_reduce(values: Any, op: ReduceOp, group: Ranks) -> None:
    """Stands for torch.distributed's `all_reduce`. The one element of the tensor `values` becomes the largest value of
    all ranks."""
    values[0] = group.maximum(int(values[0]))


def get_parallel() -> SimpleNamespace:
    """Stands for sglang's `get_parallel` (runtime_context.py): how the work is divided among ranks."""
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
