"""Forces an order of a pool's machine on the real functions: several requests with n = 1 each, and a pool of segments.

The recorder does not see the pool's questions to the kernel, nor its writing. So in the tokenizer's process, the pool's
functions are replaced by ones that wait at the turnstile. A batch of requests cannot show three things, and so they are
left out: a request that fails while others go on, a stranger, and the end, at which the pool is drained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from fixed.designs import Design, segment_pool, warm_segments
from fixed.orders.holder import Differs, Holder
from fixed.orders.machine import IDLE, NO_NAME, OVER, PHASES, TOKENIZER, Act
from fixed.orders.pool_machine import After, PoolMachine, State
from fixed.orders.protocols import LEASE, ONLY_BASE_NAME
from repro.lab.evidence import recorder
from repro.lab.lifted import Fault, make_request
from repro.lab.upstream.standin_data import TokenizedGenerateReqInput

FAULTS = ("scheduler killed", "tokenizer killed", "all killed at once")
QUESTIONS = {"only_the_base_name_is_left": ONLY_BASE_NAME, "nobody_else_has_it_open": LEASE}


class Undrained(PoolMachine):
    """The machine without its last stage, the drain. So at the end the base names still exist."""

    def _drains(self, state: State) -> Iterator[After]:
        if not self._somebody_works(state):
            yield Act(TOKENIZER, "ends"), state._replace(place=state.place._replace(stage="over"))


class PoolHolder(Holder):
    """Holds the turnstile of one run of several requests."""

    def requests(self) -> list[TokenizedGenerateReqInput]:
        return [
            make_request(shape=(2, 4), rid=f"request-{number}", seed=number)
            for number in range(len(self.machine.sends_in))
        ]

    def be_the_tokenizer(self, design: Design, release: str, fault: Fault | None) -> None:
        pool = segment_pool.Pool(most=self.machine.pool.segments)
        asks = {name: _watched_question(name, words) for name, words in QUESTIONS.items()}
        with (
            mock.patch.object(warm_segments, "POOL", pool),
            mock.patch.multiple(segment_pool, **asks),
            mock.patch.object(segment_pool.Segment, "fill", _watched_fill(segment_pool.Segment.fill)),
            mock.patch.object(segment_pool.Pool, "_resized", _asking_again(segment_pool.Pool._resized)),
        ):
            super().be_the_tokenizer(design, release, fault)

    def _let(self, act: Act, state: State) -> None:
        if act.what != "ends":
            super()._let(act, state)
        if act.what == "read" or act.what.startswith("asks"):  # wait for what follows: copy and close, or a question
            self._asking(act.who)

    def _asked_for(self, act: Act) -> str:
        return super()._asked_for(act).partition(":")[0]

    def _tidies(self, state: State) -> bool:
        return state.place.stage == "tidies"

    def _goes_on(self, state: State) -> bool:
        return state.place.stage not in ("dead", "tidies") and state.fault < NO_NAME

    def _waits(self, state: State, rank: int) -> bool:
        return state.ranks[rank] != OVER and state.ranks[rank] % PHASES == IDLE

    def _end(self, state: State) -> None:
        if self._goes_on(state):
            place = self._asking(TOKENIZER)
            if place.asks["what"] != "await":
                raise Differs(f"after the last act it asks to {place.asks['what']}")
            place.asks = None
            place.line.sendall(b"go\n")
        super()._end(state)


again = [False]  # whether the pool repeats its questions: the answers are the same, because all other processes wait


def _watched_question(name: str, words: str) -> Callable[[Any], bool]:
    original = getattr(segment_pool, name)

    def watched(segment: segment_pool.Segment) -> bool:
        if not segment.size or again[0]:  # of a new segment, the pool asks only whether the kernel grants leases
            return original(segment)
        with recorder.current().turn(f"asks {words}", f"/{segment.name}"):
            return original(segment)

    return watched


def _watched_fill(original: Callable) -> Callable:
    def watched(segment: segment_pool.Segment, content: Any) -> None:
        with recorder.current().turn("write", f"/{segment.name}"):
            original(segment, content)

    return watched


def _asking_again(original: Callable) -> Callable:
    def watched(pool: segment_pool.Pool, size: int) -> Any:
        again[0] = True
        try:
            return original(pool, size)
        finally:
            again[0] = False

    return watched
