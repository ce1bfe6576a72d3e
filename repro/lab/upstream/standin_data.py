"""The data of a request: upstream's class and field names, with only the fields that the lifted functions use.

These classes are stand-ins (`python -m repro.lab --explain` lists them), because sglang's own classes need all of
sglang. They are dataclasses without slots, so that an object graph shows the objects that they share.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


class TimeStats:
    """Accepts every `set_...` call that upstream makes on its statistics, and stores nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        if not name.startswith("set_"):
            raise AttributeError(name)
        return _nothing


@dataclass
class SamplingParams:
    """Stands for `SamplingParams` (sampling_params.py): only the field that an expansion point changes."""

    max_new_tokens: int = 8


@dataclass
class MultimodalDataItem:
    """Stands for `MultimodalDataItem` (schedule_batch.py): one image, with its feature."""

    feature: Any = None
    precomputed_embeddings: Any = None
    hash: int | None = None
    model_specific_data: dict = field(default_factory=dict)


@dataclass
class MultimodalInputs:
    """Stands for the class of a request's `mm_inputs` (schedule_batch.py)."""

    mm_items: list[MultimodalDataItem]

    def get(self, name: str, default: Any = None) -> Any:
        """The field `name`: 0.5.9 reads the fields as if this were a dict."""
        return getattr(self, name, default)

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)


@dataclass
class TokenizedGenerateReqInput:
    """Stands for `TokenizedGenerateReqInput` (io_struct.py): one request on its way to the scheduler. `checksums` is a
    field of the kit: the digests of the arrays that the scheduler has to find."""

    rid: str
    mm_inputs: MultimodalInputs | None = None
    input_ids: list[int] = field(default_factory=lambda: [1, 2, 3])
    sampling_params: SamplingParams = field(default_factory=SamplingParams)
    stream: bool = False
    time_stats: TimeStats = field(default_factory=TimeStats)
    bootstrap_room: int | None = None
    checksums: list[str] = field(default_factory=list)

    def wrap_pickle_fields(self) -> None:
        """Later releases pickle some fields separately. This request has no such field."""

    def items(self) -> list[MultimodalDataItem]:
        """The request's items; an empty list for a request without an image."""
        return self.mm_inputs.mm_items if self.mm_inputs else []


class GenerateReqInput:
    """Stands for `GenerateReqInput` (io_struct.py): what the user asked for, before it is tokenized. `self[i]` is the
    i-th prompt of the batch."""

    def __init__(self, rid: str | list[str], n: int, batch_size: int = 1) -> None:
        self.rid, self.parallel_sample_num, self.batch_size = rid, n, batch_size
        self.stream = self.return_prompt_token_ids = False
        self.lora_path = self.lora_id = None
        self.numbers = itertools.count()

    def __getitem__(self, index: int) -> GenerateReqInput:
        single = GenerateReqInput(self.rid[index], self.parallel_sample_num)
        single.numbers = self.numbers
        return single

    def regenerate_rid(self, prefix: str | None = None) -> str:
        """Give this request the next id, `send-0`, `send-1`, ..., and return it. (sglang's ids are random.)"""
        self.rid = f"send-{next(self.numbers)}"
        return self.rid


class EmbeddingReqInput:
    """Stands for `EmbeddingReqInput` (io_struct.py): named by annotations and type checks, never made here."""


class BaseBatchReq:
    """Stands for `BaseBatchReq` (io_struct.py): named by annotations and type checks, never made here."""


def _nothing(*_: object, **__: object) -> None:
    pass
