"""Sequences of batches, faults and restarts on one tokenizer. If one of them leaves something, the next one meets
it."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from fixed.designs import ONE_SEGMENT, WARM_SEGMENTS, Design, segment_pool, warm_segments
from fixed.designs import one_segment_many_names as one
from fixed.designs.shm_names import of_this_process
from repro.lab.lifted import Fault, run
from repro.lab.lifted.pool import pool
from repro.lab.releases import LAST
from tests.batches import CONTAINED, batch

pytestmark = pytest.mark.long
RUNS = settings(
    max_examples=6,
    stateful_step_count=12,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
N = st.integers(1, 3)


class OneTokenizer(RuleBasedStateMachine):
    """One tokenizer (this process) with one design. All batches, faults and restarts of the sequence come to it."""

    design: Design

    def __init__(self) -> None:
        super().__init__()
        warm_segments.POOL.drain()

    @rule(
        n=N,
        prompts=st.integers(1, 2),
        items=st.integers(1, 2),
        side=st.sampled_from([8, 16]),
        ranks=st.integers(1, 2),
        release=st.sampled_from([LAST, CONTAINED]),
    )
    def a_batch_is_answered(self, n, prompts, items, side, ranks, release):
        requests = batch(prompts, items=items, shape=(side, 16))
        result = run(requests, n=n, ranks=ranks, release=release, fix=self.design)
        assert result.faults() == []
        assert len(result.verdict.answers) == n * prompts
        assert all(send.intact for send in result.sends)

    @rule(n=N, data=st.data(), what=st.sampled_from(["fail", "cancel"]))
    def a_send_fails_or_the_client_goes_away(self, n, data, what):
        at = data.draw(st.integers(0, n if n > 1 else 0))
        result = run(n=n, fault=Fault(what, send=at), fix=self.design)
        assert result.verdict.leftovers.segments == []

    @rule(n=N, data=st.data(), moment=st.sampled_from(["open", "clone", "unlink", "create", "send"]))
    def the_scheduler_is_killed_and_comes_again(self, n, data, moment):
        """Only sent names may be left, because no consumer is there to unlink them. The lab sweeps them."""
        at = data.draw(st.integers(0, n if n > 1 else 0)) if moment != "create" else 0
        result = run(n=n, fault=Fault("kill", moment, send=at), fix=self.design)
        sent = {name for send in result.sends for name in send.names}
        assert set(result.verdict.leftovers.segments) <= sent

    @rule()
    def all_schedulers_are_restarted(self):
        pool.close()

    @rule()
    def what_is_kept_is_given_up(self):
        warm_segments.POOL.drain()
        assert list(self.design.kept()) == []

    @invariant()
    def nothing_is_there_but_what_is_kept(self):
        assert sorted(of_this_process()) == sorted(self.design.kept())
        assert len(self.design.kept()) <= segment_pool.MOST

    def teardown(self) -> None:
        warm_segments.POOL.drain()
        assert of_this_process() == []


def sequences_of(design: Design, runs: settings = RUNS) -> None:
    """Run them. Raises AssertionError with a sequence that is wrong; with `RUNS`, with the shortest."""
    run_state_machine_as_test(type(design.name, (OneTokenizer,), {"design": design}), settings=runs)


@pytest.mark.parametrize("design", [ONE_SEGMENT, WARM_SEGMENTS], ids=lambda design: design.name)
def test_whatever_came_before_the_next_batch_is_answered_and_nothing_is_left(design):
    sequences_of(design)


def test_a_design_that_gives_nothing_back_is_found(monkeypatch):
    monkeypatch.setattr(one.Batch, "close", lambda self: None)
    with pytest.raises(AssertionError):
        sequences_of(ONE_SEGMENT, settings(RUNS, phases=[Phase.generate], report_multiple_bugs=False))
