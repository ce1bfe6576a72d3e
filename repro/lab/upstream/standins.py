"""The stand-ins for the rest of sglang, each with its reason: a complete list.

All lifted code runs as released. The code that replaces the rest of sglang is in this file, in `standin_data` and in
`standin_receiver`, and nowhere else.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import mmap
import os
import sys
import time
import uuid
from contextlib import nullcontext
from dataclasses import dataclass
from multiprocessing import shared_memory
from types import SimpleNamespace
from typing import Any

from repro.lab.upstream import standin_data as data
from repro.lab.upstream import standin_receiver as receiver


@dataclass(frozen=True)
class Standin:
    """An object of the kit that replaces an object of sglang, and the reason for this."""

    value: Any
    why: str


settings = SimpleNamespace(skip_tokenizer_init=False)
logger = logging.getLogger("repro.lab.upstream")
REAL = {
    "asyncio": asyncio,
    "copy": copy,
    "mmap": mmap,
    "nullcontext": nullcontext,
    "os": os,
    "shared_memory": shared_memory,
    "sys": sys,
    "time": time,
    "uuid": uuid,
}


def of_modules() -> dict[str, Standin]:
    """The stand-ins for names that the lifted modules import."""
    asked = Standin(lambda: settings, "the server's arguments: one flag, skip_tokenizer_init")
    spans = Standin(_nothing, "tracing is off")
    plain = "plain data with the fields that are touched"
    return {
        "get_global_server_args": asked,
        "get_server_args": asked,
        "get_serving": asked,
        "determine_tensor_transport_mode": Standin(lambda: "cuda_ipc", "never asked: the answer is set beforehand"),
        "logger": Standin(logger, "Python's own logging, without sglang's format"),
        "print_warning_once": Standin(logger.warning, "Python's own logging, and not only once"),
        "get_bool_env_var": Standin(lambda name: False, "no switch of the environment is on"),
        "input_blocker_guard_region": Standin(nullcontext, "never entered: its switch is off"),
        "trace_get_proc_propagate_context": spans,
        "trace_slice_start": spans,
        "trace_slice_end": spans,
        "RequestStage": Standin(SimpleNamespace(TOKENIZER_DISPATCH=""), "names of spans"),
        "TokenizedGenerateReqInput": Standin(data.TokenizedGenerateReqInput, plain),
        "TokenizedEmbeddingReqInput": Standin(data.EmbeddingReqInput, "named by type checks only"),
        "GenerateReqInput": Standin(data.GenerateReqInput, plain),
        "EmbeddingReqInput": Standin(data.EmbeddingReqInput, "named by type checks only"),
        "BaseBatchReq": Standin(data.BaseBatchReq, "named by type checks only"),
        "MultimodalInputs": Standin(data.MultimodalInputs, plain),
        "MultimodalProcessorOutput": Standin(data.MultimodalInputs, plain),
        "ReqState": Standin(ReqState, "the state of one request: its statistics"),
        "TokenizerManager": Standin(TokenizerManager, "what the lifted methods call on self: tokenize, await, send"),
        **{name: Standin(*standin) for name, standin in receiver.WHY.items()},
    }


class ReqState:
    """Stands for `ReqState` (tokenizer_manager.py): the state of one request that waits for its answer."""

    def __init__(self, *_: object, **__: object) -> None:
        self.time_stats = data.TimeStats()
        self.dispatched = self.lora_released = False
        self.prompt_token_ids: list[int] | None = None
        self.answer: asyncio.Future = asyncio.get_running_loop().create_future()


class _NoGpuTransport:
    """Stands for the transports of GPU tensors. It transports nothing."""

    def prepare_for_dispatch(self, things: object) -> list:
        return []

    async def prepare_for_dispatch_async(self, things: object) -> list:
        return []

    def cancel_for_dispatch(self, prepared: list) -> None:
        pass


class TokenizerManager:
    """The base of the lifted `TokenizerManager`: only the methods that `_handle_batch_request` calls on `self`.

    `requests` are the tokenized requests, one for each prompt. `send_to_scheduler` has the method `send_pyobj`.
    """

    req_state_class = ReqState

    def __init__(self, requests: list[data.TokenizedGenerateReqInput], send_to_scheduler: Any) -> None:
        self.requests = {one.rid: one for one in requests}
        self.send_to_scheduler = send_to_scheduler
        self.rid_to_state: dict[str, ReqState] = {rid: ReqState() for rid in self.requests}
        self.encoder_dispatch_ready: dict[str, asyncio.Event] = {}
        self.cuda_vmm_feature_transport = self.positional_embeds_transport = _NoGpuTransport()

    def _should_use_batch_tokenization(self, batch_size: int, requests: object) -> bool:
        return False

    async def _tokenize_one_request(self, obj: data.GenerateReqInput) -> data.TokenizedGenerateReqInput:
        return self.requests[obj.rid]

    def _init_req_state(self, obj: data.GenerateReqInput, *_: object) -> None:
        self.rid_to_state[obj.rid] = ReqState()

    _req_stats_init = _init_req_state  # the method's name until 0.5.10.post1

    def _init_child_req_state(self, logical_rid: str, obj: data.GenerateReqInput) -> None:
        self._init_req_state(obj)

    def _remove_req_state(self, rid: str) -> None:
        self.rid_to_state.pop(rid, None)

    def _mark_state_dispatched(self, rid: str) -> None:
        pass

    def _raise_if_logical_request_aborted(self, obj: object) -> None:
        pass

    _raise_if_logical_rid_aborted = _raise_if_logical_request_aborted

    def _dispatch_to_scheduler(self, tokenized: data.TokenizedGenerateReqInput) -> None:
        self.send_to_scheduler.send_pyobj(tokenized)

    async def _wait_one_response(self, obj: data.GenerateReqInput, *_: object):
        yield await self.rid_to_state[obj.rid].answer


def _nothing(*_: object, **__: object) -> None:
    pass
