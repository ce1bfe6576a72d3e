"""With n > 1, every request that is sent owns the shared memory that it names (#24231).

`_handle_batch_request` sends one tokenized request n + 1 times: a warm-up, then n samples. A consumer unlinks the
name that it was sent, so no two sends may carry the same one, and a send must not change what the next one is made
from. From 0.5.20 on a name that is gone is no dead server but a failed request; so this asserts who owns what, and not
that nothing crashes. No server, no model, no GPU.
"""

import asyncio
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import itertools
import os
import pickle
import sys
import unittest
from types import SimpleNamespace
from unittest import mock

import torch


class KernelStub(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds `sgl_kernel`, of which there are only CUDA builds, and whatever is imported from below it."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "sgl_kernel":
            return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def exec_module(self, module):
        module.__getattr__ = lambda name: mock.MagicMock()


if importlib.util.find_spec("sgl_kernel") is None:
    sys.meta_path.append(KernelStub())

from sglang.srt.managers import mm_utils, tokenizer_manager

SAMPLES = 3


class Stats:
    """For a request's statistics: takes every `set_...` call, and can be pickled."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_: None

    def __reduce__(self):
        return Stats, ()


class Inputs(SimpleNamespace):
    """For `mm_inputs`. 0.5.9 looks into them as into a dictionary."""

    def get(self, name, default=None):
        return getattr(self, name, default)


class Tokenized(SimpleNamespace):
    """For a `TokenizedGenerateReqInput`."""

    def wrap_pickle_fields(self):
        pass


class Asked:
    """For a `GenerateReqInput` of several prompts, or, with an index, one of them."""

    stream = return_prompt_token_ids = False
    lora_path = lora_id = None

    def __init__(self, rids, numbers=None):
        self.rid, self.batch_size, self.parallel_sample_num = rids, len(rids), SAMPLES
        self.numbers = numbers or itertools.count()

    def __getitem__(self, index):
        return Asked(self.rid[index], self.numbers)

    def regenerate_rid(self, *_):
        self.rid = f"send-{next(self.numbers)}"
        return self.rid


class Manager(tokenizer_manager.TokenizerManager):
    """A TokenizerManager whose scheduler is `consume(rid)`, and whose requests are tokenized already."""

    def __init__(self, requests, send_to_scheduler, consume):
        self.requests, self.consume = {one.rid: one for one in requests}, consume
        self.send_to_scheduler = send_to_scheduler
        self.rid_to_state = {one.rid: SimpleNamespace(time_stats=mock.MagicMock()) for one in requests}
        self.encoder_dispatch_ready, self.enable_trace = {}, False
        nothing = mock.MagicMock(return_value=[])
        self.positional_embeds_transport = mock.MagicMock(prepare_for_dispatch=nothing)
        self.cuda_vmm_feature_transport = mock.MagicMock(prepare_for_dispatch_async=mock.AsyncMock(return_value=[]))

    def __getattr__(self, name):  # what some release calls besides: accounting, not sending
        if name.startswith("__"):
            raise AttributeError(name)
        return mock.MagicMock()

    async def _tokenize_one_request(self, asked):
        return self.requests[asked.rid]

    def _init_req_state(self, asked, *_):
        self.rid_to_state[asked.rid] = SimpleNamespace(time_stats=Stats(), prompt_token_ids=None)

    _req_stats_init = _init_req_state

    def _init_child_req_state(self, _, asked):
        self._init_req_state(asked)

    def _remove_req_state(self, rid):
        self.rid_to_state.pop(rid, None)

    def _mark_state_dispatched(self, _):
        pass

    def _raise_if_logical_request_aborted(self, _):
        pass

    _raise_if_logical_rid_aborted = _raise_if_logical_request_aborted

    def _dispatch_to_scheduler(self, request):
        self.send_to_scheduler.send_pyobj(request)

    async def _wait_one_response(self, asked, *_):
        yield self.consume(asked.rid)


def tensors(request):
    """What the items carry, in order: tensors, or the pointers in their place."""
    for item in request.mm_inputs.mm_items:
        yield from item.feature if isinstance(item.feature, (list, tuple)) else [item.feature]


def name_of(pointer):
    """The name in shared memory that a pointer stands for; None for a tensor, which is sent inline."""
    if not isinstance(pointer, mm_utils.ShmPointerMMData):
        return None
    return getattr(pointer, "shm_name", None) or pointer.shm.name


def materialized(found):
    """The tensor that arrived; 0.5.9 makes it, and unlinks, as it unpickles the pointer."""
    if isinstance(found, torch.Tensor):
        return found
    return found.materialize() if hasattr(found, "materialize") else found.tensor


class TestParallelSamplingShmOwnership(unittest.TestCase):
    def setUp(self):
        self.names, self.messages, self.received, self.gone_wrong = [], {}, {}, []
        server = SimpleNamespace(skip_tokenizer_init=False)
        patches = {"_is_default_tensor_transport": False}
        for accessor in ("get_global_server_args", "get_server_args", "get_serving"):
            patches[accessor] = lambda: server
        for name, value in patches.items():
            patch = mock.patch.object(mm_utils, name, value, create=True)
            patch.start()
            self.addCleanup(patch.stop)
        self.addCleanup(self.remove_names)

    def remove_names(self):
        """Whatever a failing test has left."""
        for name in self.names:
            if os.path.exists(f"/dev/shm/{name}"):
                os.unlink(f"/dev/shm/{name}")

    def send_pyobj(self, request):
        """The socket: keep the message, and note which names it carries."""
        self.messages[request.rid] = pickle.dumps(request)
        self.names += filter(None, map(name_of, tensors(request)))

    def consume(self, rid):
        """The scheduler: unpickle, clone, unlink."""
        try:
            self.received[rid] = [materialized(found) for found in tensors(pickle.loads(self.messages[rid]))]
        except Exception as error:  # sglang's scheduler would die of it, or fail the request
            self.gone_wrong.append(f"{rid}: {type(error).__name__}: {error}")
        return rid

    def sample(self, *features):
        """Send a prompt for each list of features, n times, and hold the result to who owns what."""
        requests = [
            Tokenized(
                rid=f"prompt-{number}",
                mm_inputs=Inputs(
                    mm_items=[SimpleNamespace(feature=each, precomputed_embeddings=None, hash=None) for each in items]
                ),
                sampling_params=SimpleNamespace(max_new_tokens=8),
                stream=False,
                input_ids=[1],
                time_stats=Stats(),
            )
            for number, items in enumerate(features)
        ]
        before = [list(tensors(request)) for request in requests]
        manager = Manager(requests, SimpleNamespace(send_pyobj=self.send_pyobj), self.consume)
        asyncio.run(self.answers(manager, Asked([request.rid for request in requests])))

        self.assertEqual(len(self.messages), len(requests) * (1 + SAMPLES), "a warm-up and n samples for each prompt")
        self.assertEqual(len(set(self.names)), len(self.names), "two sends carry the same name")
        for request, held in zip(requests, before, strict=True):
            for now, then in zip(tensors(request), held, strict=True):
                self.assertIs(now, then, "sending changed the source request")
        self.assertEqual(self.gone_wrong, [], "a consumer could not open what it was sent")
        for arrived in self.received.values():
            self.assertTrue(
                any(len(arrived) == len(held) and all(map(torch.equal, arrived, held)) for held in before),
                "a consumer got other bytes",
            )
        self.assertEqual([name for name in self.names if os.path.exists(f"/dev/shm/{name}")], [], "names are left")

    async def answers(self, manager, asked):
        """Drive the real `_handle_batch_request` to its end."""
        takes_states = "request_states" in inspect.signature(manager._handle_batch_request).parameters  # from 0.5.22 on
        states = [dict(manager.rid_to_state)] if takes_states else []
        async for _ in manager._handle_batch_request(asked, None, *states):
            pass

    def test_one_image(self):
        self.sample([torch.rand(4, 8)])
        self.assertEqual(len(self.names), 1 + SAMPLES)

    def test_two_items(self):
        self.sample([torch.rand(4, 8), torch.rand(2, 8)])

    def test_a_list_of_tensors(self):
        self.sample([[torch.rand(4, 8), torch.rand(2, 8)]])

    def test_two_prompts(self):
        self.sample([torch.rand(4, 8)], [torch.rand(2, 8)])


if __name__ == "__main__":
    unittest.main()
