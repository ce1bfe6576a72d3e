"""With n > 1, every request that is sent owns the shared memory that it names (#24231).

`_handle_batch_request` sends one tokenized request n + 1 times: a warm-up, then n samples. A consumer unlinks the
name that it was sent. So no two sends may carry the same name, every tensor has to travel under a name, and a send must
not change what the next one is made from, not even for a moment. From 0.5.19 on a name that is gone is no dead server
but a failed request; so this asserts who owns what, and not that nothing crashes. No server, no model, no GPU.
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
from multiprocessing import shared_memory
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

    def regenerate_rid(self, *_, **__):
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
    return (getattr(pointer, "shm_name", None) or pointer.shm.name).lstrip("/")


def requests_for(*prompts):
    """A tokenized request for each prompt, which is a list of features; its input_ids tell the prompts apart."""
    return [
        Tokenized(
            rid=f"prompt-{number}",
            mm_inputs=Inputs(
                mm_items=[SimpleNamespace(feature=each, precomputed_embeddings=None, hash=None) for each in features]
            ),
            sampling_params=SimpleNamespace(max_new_tokens=8),
            stream=False,
            input_ids=[number],
            time_stats=Stats(),
        )
        for number, features in enumerate(prompts)
    ]


async def answers(manager, requests):
    """What the real `_handle_batch_request` yields at last."""
    takes_states = "request_states" in inspect.signature(manager._handle_batch_request).parameters  # from 0.5.22 on
    states = [dict(manager.rid_to_state)] if takes_states else []
    made = manager._handle_batch_request(Asked([each.rid for each in requests]), None, *states)
    return [each async for each in made][-1]


def as_on_a_server(test):
    """During the test, the functions find what they look up on a server: shared memory is the transport."""
    server = SimpleNamespace(skip_tokenizer_init=False)
    patches = {
        "_is_default_tensor_transport": False,
        "TokenizedGenerateReqInput": Tokenized,  # the scheduler's side looks only into what it knows
        "MultimodalProcessorOutput": Inputs,
        "MultimodalInputs": Inputs,
    }
    for accessor in ("get_global_server_args", "get_server_args", "get_serving"):
        patches[accessor] = lambda: server
    for name, value in patches.items():
        patched(test, mm_utils, name, value)


def patched(test, holder, name, value):
    """During the test, `holder` has this value under this name."""
    patch = mock.patch.object(holder, name, value, create=True)
    patch.start()
    test.addCleanup(patch.stop)


class TestParallelSamplingShmOwnership(unittest.TestCase):
    def setUp(self):
        self.messages, self.names, self.made, self.received, self.gone_wrong = {}, [], set(), {}, []
        as_on_a_server(self)
        patched(self, shared_memory.SharedMemory, "__init__", self.noticed(shared_memory.SharedMemory.__init__))
        self.addCleanup(self.remove_names)

    def noticed(self, original):
        """`SharedMemory.__init__`, which notes the names that are created."""

        def __init__(segment, name=None, create=False, *arguments, **named):
            original(segment, name, create, *arguments, **named)
            if create:
                self.made.add(segment.name.lstrip("/"))

        return __init__

    def left(self):
        """The names of this test that are there now."""
        return [name for name in sorted({*self.made, *self.names}) if os.path.exists(f"/dev/shm/{name}")]

    def remove_names(self):
        """Whatever a failing test has left."""
        for name in self.left():
            os.unlink(f"/dev/shm/{name}")

    def send_pyobj(self, request):
        """The socket: keep the message, and note which names it carries, and what has become of the source."""
        self.messages[request.rid] = pickle.dumps(request)
        self.names += filter(None, map(name_of, tensors(request)))
        for source, held in zip(self.sources, self.held, strict=True):
            if any(now is not then for now, then in zip(tensors(source), held, strict=True)):
                self.gone_wrong.append("a send changes the source request while it is under way")

    def consume(self, rid):
        """The scheduler: unpickle, unwrap. Returns the number of the prompt, as its answer."""
        try:
            request = pickle.loads(self.messages[rid])
            mm_utils.unwrap_shm_features(request)
        except Exception as error:  # sglang's scheduler would die of it, or fail the request
            self.gone_wrong.append(f"a consumer could not open what it was sent: {type(error).__name__}")
            return None
        (prompt,) = request.input_ids
        self.received.setdefault(prompt, []).append(list(tensors(request)))
        return prompt

    def sample(self, *prompts):
        """Send a request for each prompt, n times, and hold the result to who owns what."""
        self.sources = requests_for(*prompts)
        self.held = [list(tensors(request)) for request in self.sources]
        sends = 1 + SAMPLES
        manager = Manager(self.sources, SimpleNamespace(send_pyobj=self.send_pyobj), self.consume)
        answered = asyncio.run(answers(manager, self.sources))

        self.assertEqual(len(self.messages), len(prompts) * sends, "a warm-up and n samples for each prompt")
        self.assertEqual(len(set(self.names)), len(self.names), "two sends carry the same name")
        self.assertFalse(self.gone_wrong, "; ".join(dict.fromkeys(self.gone_wrong)))
        for request, held in zip(self.sources, self.held, strict=True):
            for now, then in zip(tensors(request), held, strict=True):
                self.assertIs(now, then, "sending changed the source request")
        self.assertEqual(len(self.names), sends * sum(map(len, self.held)), "each tensor is to be sent under one name")
        self.assertLessEqual(self.made, set(self.names), "a segment is made that nobody is sent")
        for prompt, held in enumerate(self.held):
            self.assertEqual(len(self.received[prompt]), sends, "each prompt is sent n + 1 times")
            for arrived in self.received[prompt]:
                self.assertEqual([type(each) for each in arrived], [torch.Tensor] * len(held), "a pointer is left")
                self.assertTrue(all(map(torch.equal, arrived, held)), "a consumer gets other pixels than its prompt's")
        in_order = [prompt for prompt in range(len(prompts)) for _ in range(SAMPLES)]
        self.assertEqual(answered, in_order, "the answers are not in the order of the prompts")
        self.assertEqual(self.left(), [], "names are left")

    def test_one_image(self):
        self.sample([torch.rand(4, 8)])

    def test_two_items(self):
        self.sample([torch.rand(4, 8), torch.rand(2, 8)])

    def test_a_list_of_tensors(self):
        self.sample([[torch.rand(4, 8), torch.rand(2, 8)]])

    def test_two_prompts(self):
        self.sample([torch.rand(4, 8)], [torch.rand(4, 8)])


if __name__ == "__main__":
    unittest.main()
