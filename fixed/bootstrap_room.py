"""A bug like #24231 at the same two expansion points, in every release up to now: `bootstrap_room` is sent n + 1 times.

With prefill/decode disaggregation, a router gives each request a room (a number) and sends the request to two servers.
In this room, the prefill server hands the request's cache over to the decode server, once. With n > 1, each server
copies the request for the warm-up and for every sample, and all copies carry the same room. The warm-up uses up the
room.

The smallest fix gives each send a room of its own. Both servers must choose the same room for the same send, although
they do not talk to each other about it. So the room is computed from the request's room and the number of the send.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from typing import Any

from fixed.designs.one_segment_many_names import made_with

ROOMS = 2**63  # a room is an int64 that is not negative

_sends: ContextVar[Counter[int] | None] = ContextVar("sends of each room", default=None)


def room_of(room: int, send: int) -> int:
    """Return the room of one send of a request: a number from 0 to ROOMS - 1, the same on every server. `room` is the
    request's room, and `send` counts from 0. Send 0, the warm-up, keeps the request's room."""
    if send == 0:
        return room
    return int.from_bytes(hashlib.blake2b(f"{room} {send}".encode(), digest_size=8).digest(), "big") % ROOMS


def handle_batch_request(original: Callable, manager: Any, obj: Any, *arguments: Any, **named: Any) -> AsyncIterator:
    """Hook around `TokenizerManager._handle_batch_request` (tokenizer_manager.py). Returns its answers. Meanwhile, the
    sends of each room are counted. With n = 1 nothing is changed."""
    answers = original(manager, obj, *arguments, **named)
    return answers if getattr(obj, "parallel_sample_num", 1) == 1 else _counted(answers)


async def _counted(answers: AsyncIterator) -> AsyncIterator:
    async with contextlib.aclosing(made_with(_sends, Counter(), answers)) as made:
        async for answer in made:
            yield answer


def send_one_request(original: Callable, *arguments: Any, **named: Any) -> Any:
    """Hook around `TokenizerManager._send_one_request` (tokenizer_manager.py). Gives the copy of the request that is
    about to be sent a room of its own, and returns what the original function returns."""
    sends = _sends.get()
    request = next((each for each in arguments[1:] if getattr(each, "bootstrap_room", None) is not None), None)
    if sends is not None and request is not None:
        room = request.bootstrap_room
        request.bootstrap_room = room_of(room, sends[room])
        sends[room] += 1
    return original(*arguments, **named)


HOOKS = {
    "sglang.srt.managers.tokenizer_manager.TokenizerManager._handle_batch_request": handle_batch_request,
    "sglang.srt.managers.tokenizer_manager.TokenizerManager._send_one_request": send_one_request,
}
