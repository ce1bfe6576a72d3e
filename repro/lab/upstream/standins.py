"""What the lab gives the lifted functions in place of the rest of sglang, and why: the honest list.

Everything that is lifted runs as released. What is not sglang is in here and in `request`, and nowhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import logging
import mmap
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from multiprocessing import shared_memory
from types import SimpleNamespace
from typing import Any

from repro.lab.lifted import request
from repro.lab.upstream import expansion, lift, source
from repro.lab.upstream.lift import Lifted

MM_UTILS = ("ShmPointerMMData", "wrap_shm_features", "has_shm_features", "unwrap_shm_features")
TOKENIZER_MANAGER = ("_handle_batch_request", "_send_one_request")
MANAGERS = "sglang.srt.managers"
LATER_METHODS = ("_collect_batch_responses", "_stream_batch_responses")  # split off in 0.5.17


@dataclass(frozen=True)
class Standin:
    """Something of ours that stands where sglang's own would be."""

    value: Any
    why: str


settings = SimpleNamespace(skip_tokenizer_init=False)
logger = logging.getLogger("repro.lab.lifted")
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
    data = "plain data with the fields that are touched"
    return {
        "get_global_server_args": asked,
        "get_server_args": asked,
        "get_serving": asked,
        "determine_tensor_transport_mode": Standin(lambda: "cuda_ipc", "never asked: the answer is set beforehand"),
        "logger": Standin(logger, "Python's own logging, without sglang's format"),
        "print_warning_once": Standin(logger.warning, "likewise"),
        "get_bool_env_var": Standin(lambda name: False, "no switch of the environment is on"),
        "input_blocker_guard_region": Standin(nullcontext, "never entered: its switch is off"),
        "trace_get_proc_propagate_context": spans,
        "trace_slice_start": spans,
        "trace_slice_end": spans,
        "RequestStage": Standin(SimpleNamespace(TOKENIZER_DISPATCH=""), "names of spans"),
        "TokenizedGenerateReqInput": Standin(request.TokenizedGenerateReqInput, data),
        "TokenizedEmbeddingReqInput": Standin(request.EmbeddingReqInput, "named by type checks only"),
        "GenerateReqInput": Standin(request.GenerateReqInput, data),
        "EmbeddingReqInput": Standin(request.EmbeddingReqInput, "named by type checks only"),
        "BaseBatchReq": Standin(request.BaseBatchReq, "named by type checks only"),
        "MultimodalInputs": Standin(request.MultimodalInputs, data),
        "MultimodalProcessorOutput": Standin(request.MultimodalInputs, data),
        "ReqState": Standin(ReqState, "the state of one request: its statistics"),
        "TokenizerManager": Standin(TokenizerManager, "what the lifted methods call on self: tokenize, await, send"),
    }


@functools.cache
def mm_utils(release: str) -> Lifted | None:
    """`ShmPointerMMData` and the three functions around it, lifted from a release; None before 0.5.9, which has
    no shared-memory transport."""
    code = source.read(release, source.MM_UTILS)
    if not lift.has(code, "ShmPointerMMData"):
        return None
    names = [name for name in MM_UTILS if lift.has(code, name)]
    return lift.lift(code, names, {**_offered(release), **_torch()})


@functools.cache
def process_tree() -> Lifted:
    """The installed release's `kill_process_tree`, by which a server ends itself when its scheduler has died."""
    import psutil

    code = source.read(source.INSTALLED, source.COMMON)
    return lift.lift(code, ["kill_process_tree"], {**REAL, "logger": logger, "psutil": psutil, "signal": signal})


def set_transport(release: str, *, default: bool, skip_tokenizer_init: bool) -> None:
    """Decide for this process what the lifted functions find out on a server from its arguments: the transport
    (`default` pickles features inline, as with `dist_init_addr`) and `skip_tokenizer_init`."""
    settings.skip_tokenizer_init = skip_tokenizer_init
    if lifted := mm_utils(release):
        lifted.module._is_default_tensor_transport = default


@functools.cache
def tokenizer_manager(release: str, with_prepare: bool) -> Lifted:
    """`TokenizerManager` with the lifted `_handle_batch_request` and `_send_one_request` over our base. With
    `with_prepare`, the copies at the expansion points go through the module's `prepare_1` and `prepare_2`."""
    code = source.read(release, source.TOKENIZER_MANAGER)
    names = [*TOKENIZER_MANAGER, *LATER_METHODS]
    methods = [f"TokenizerManager.{name}" for name in names if lift.has(code, f"TokenizerManager.{name}")]
    offered = _offered(release)
    offered["wrap_shm_features"] = lambda obj: mm_utils(release).module.wrap_shm_features(obj)
    if with_prepare:
        code = _with_prepare(code)
        offered |= {"prepare_1": itself, "prepare_2": itself}
    return lift.lift(code, methods, offered)


Hook = Callable[..., Any]


@contextlib.contextmanager
def plugged(release: str, hooks: Mapping[str, Hook], manager: Lifted) -> Iterator[None]:
    """While the context lasts, each hook stands around a function of sglang, in this process's lifted code: a call
    becomes `hook(original, *arguments)`, as with sglang's own `HookType.AROUND`. `hooks` are keyed by full upstream
    path, such as `sglang.srt.managers.mm_utils.wrap_shm_features`; those of other modules are passed over. `manager` is
    the lifted tokenizer_manager. Raises Refused if the release has no such function.
    """
    modules = {"mm_utils": mm_utils(release), "tokenizer_manager": manager}
    with contextlib.ExitStack() as undo:
        for path, hook in hooks.items():
            module, _, place = path.removeprefix(f"{MANAGERS}.").partition(".")
            if path.startswith(MANAGERS) and module in modules:
                holder, name, original = _found(modules[module], place, release, path)
                setattr(holder, name, around(original, hook))
                undo.callback(setattr, holder, name, original)
        yield


def _found(lifted: Lifted | None, place: str, release: str, path: str) -> tuple[Any, str, Callable]:
    """What holds the function at `place` (`function` or `Class.function`), its name there, and itself."""
    owner, _, name = place.rpartition(".")
    holder = lifted and (getattr(lifted.module, owner, None) if owner else lifted.module)
    original = vars(holder).get(name) if holder else None
    if original is None:
        raise source.Refused(f"sglang {release} has no {path} to hook")
    return holder, name, original


def around(original: Callable, hook: Hook) -> Callable:
    """`original` with the hook around it, as sglang's plugins do it."""

    @functools.wraps(original)
    def hooked(*arguments: Any, **named: Any) -> Any:
        return hook(original, *arguments, **named)

    return hooked


def prepare_with(manager: Lifted, prepare: Hook, points: Sequence[int]) -> None:
    """Let a tokenizer_manager that was lifted `with_prepare` apply it at these expansion points, and at no other."""
    manager.module.prepare_1 = prepare if 1 in points else itself
    manager.module.prepare_2 = prepare if 2 in points else itself


def _with_prepare(code: source.Source) -> source.Source:
    points = expansion.expansion_points(code.text)
    if len(points) != 2:
        raise source.Refused(
            f"sglang {code.release} has {len(points)} expansion points that share their items, not 2: "
            "a fix plugs in at 0.5.9 to 0.5.12.post1 only"
        )
    text = code.text
    for number, point in enumerate(points, start=1):
        text = expansion.with_call_around(text, [point], f"prepare_{number}")
    return source.Source(code.release, code.path, text)


def _offered(release: str) -> dict[str, Any]:
    offered = {**REAL, **{name: standin.value for name, standin in of_modules().items()}}
    with contextlib.suppress(source.Refused):  # from 0.5.14 on, segments have names of their own making: lifted, too
        code = source.read(release, source.SHM_NAMES)
        offered["make_shm_name"] = lift.lift(code, ["make_shm_name"], REAL).module.make_shm_name
    return offered


def _torch() -> dict[str, Any]:
    import numpy
    import torch

    return {"torch": torch, "np": numpy}


class ReqState:
    """For `ReqState` (tokenizer_manager.py): one request that waits for its answer."""

    def __init__(self, *_: object, **__: object) -> None:
        self.time_stats = request.TimeStats()
        self.dispatched = self.lora_released = False
        self.prompt_token_ids: list[int] | None = None
        self.answer: asyncio.Future = asyncio.get_running_loop().create_future()


class _NoGpuTransport:
    """For the transports of GPU tensors: there is none here."""

    def prepare_for_dispatch(self, things: object) -> list:
        return []

    async def prepare_for_dispatch_async(self, things: object) -> list:
        return []

    def cancel_for_dispatch(self, prepared: list) -> None:
        pass


class TokenizerManager:
    """The base of the lifted `TokenizerManager`: what `_handle_batch_request` calls on `self`, as little as works.

    `requests` are the tokenized requests, one a prompt; `send_to_scheduler` is a real ZMQ socket.
    """

    req_state_class = ReqState

    def __init__(self, requests: list[request.TokenizedGenerateReqInput], send_to_scheduler: Any) -> None:
        self.requests = {one.rid: one for one in requests}
        self.send_to_scheduler = send_to_scheduler
        self.rid_to_state: dict[str, ReqState] = {rid: ReqState() for rid in self.requests}
        self.encoder_dispatch_ready: dict[str, asyncio.Event] = {}
        self.cuda_vmm_feature_transport = self.positional_embeds_transport = _NoGpuTransport()

    def _should_use_batch_tokenization(self, batch_size: int, requests: object) -> bool:
        return False

    async def _tokenize_one_request(self, obj: request.GenerateReqInput) -> request.TokenizedGenerateReqInput:
        return self.requests[obj.rid]

    def _init_req_state(self, obj: request.GenerateReqInput, *_: object) -> None:
        self.rid_to_state[obj.rid] = ReqState()

    _req_stats_init = _init_req_state  # its name until 0.5.10.post1

    def _init_child_req_state(self, logical_rid: str, obj: request.GenerateReqInput) -> None:
        self._init_req_state(obj)

    def _remove_req_state(self, rid: str) -> None:
        self.rid_to_state.pop(rid, None)

    def _mark_state_dispatched(self, rid: str) -> None:
        pass

    def _raise_if_logical_request_aborted(self, obj: object) -> None:
        pass

    _raise_if_logical_rid_aborted = _raise_if_logical_request_aborted

    def _dispatch_to_scheduler(self, tokenized: request.TokenizedGenerateReqInput) -> None:
        self.send_to_scheduler.send_pyobj(tokenized)

    async def _wait_one_response(self, obj: request.GenerateReqInput, *_: object):
        yield await self.rid_to_state[obj.rid].answer


def _nothing(*_: object, **__: object) -> None:
    pass


def itself(copied: Any) -> Any:
    return copied
