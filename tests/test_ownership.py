"""Ownership, not "no crash": every send owns what it sends, or the faults say what it does not own. Mutants of the fix:
each is wrong, each dies in its own way, each is caught."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given

from fixed.detach import detach
from fixed.mutants import AS_RELEASED, MUTANTS
from repro.lab.lifted import make_request, run
from repro.lab.releases import FIXED, LAST
from repro.lab.upstream.release import Release
from tests.batches import ANY, CONTAINED, batch, examples


def ownership_of(release: str, fix):
    @examples(40)
    @given(**ANY)
    def check(feature, n, prompts, items, shape, dtype):
        result = run(batch(prompts, feature, items=items, shape=shape, dtype=dtype), n=n, release=release, fix=fix)
        if result.verdict.outcome == "refused":  # POSIX has no segments without bytes; no release looks for that
            assert 0 in shape
            assert result.verdict.error == "ValueError"
            assert result.verdict.leftovers.remaining == []
        else:
            assert result.faults() == []
            assert len(result.verdict.answers) == n * prompts
            assert len(result.sends) == prompts * (n + (n > 1))
            assert all(send.intact for send in result.sends)

    check()


@pytest.mark.parametrize(("release", "fix"), [(LAST, detach), (FIXED, None), (CONTAINED, None)])
def test_every_send_owns_what_it_sends(release, fix):
    ownership_of(release, fix)


def test_the_released_code_does_not_own_and_the_faults_say_so():
    result = run(n=2)
    name = result.names[0]
    assert result.faults() == [
        "crashed: FileNotFoundError",
        f"{name} was sent 3 times",
        "the source request was mutated",
    ]


@pytest.mark.network
def test_where_the_failure_is_contained_ownership_still_bites():
    """From 0.5.19 on, a shared pointer does not kill the server, so "it did not crash" would prove nothing. An item
    whose copy is the item itself defeats upstream's fix. The lab sees the shared object, and it sees that the failure
    is another."""
    request = make_request()
    request.mm_inputs.mm_items[0].__class__ = _SharedItem
    result = run(request, n=2, release=CONTAINED)
    assert result.verdict.error == "RuntimeError"  # materialize says it; unpickling no longer fails
    assert result.verdict.where.endswith(" materialize")
    assert result.verdict.outcome == "refused"
    assert any("was sent 3 times" in fault for fault in result.faults())
    assert "the source request was mutated" in result.faults()


class _SharedItem(type(make_request("numpy").mm_inputs.mm_items[0])):
    """An item whose copy is itself."""

    def __copy__(self):
        return self


@pytest.mark.parametrize("mutant", [AS_RELEASED, *MUTANTS], ids=lambda mutant: mutant.name)
def test_a_mutant_of_the_fix_is_caught(mutant):
    result = run(n=3, fix=mutant)
    failed = [event.send for event in result.events if event.what == "open failed"]
    assert failed[0] == (2 if mutant.name == "only_expansion_point_1" else 1)
    assert result.verdict.is_the_crash()
    assert result.faults()


def test_a_pure_wrap_that_is_sent_twice_is_caught():
    """This fix wraps once, does not mutate the source, and sends the same pointer n + 1 times. It is still wrong."""
    wrapped = {}

    def wrap_once(request):
        if not wrapped:
            detached = detach(request)
            Release.of(LAST).mm_utils.wrap_shm_features(detached)
            wrapped["items"] = detached.mm_inputs.mm_items
        request.mm_inputs = copy.copy(request.mm_inputs)
        request.mm_inputs.mm_items = [copy.copy(item) for item in wrapped["items"]]
        return request

    result = run(n=2, fix=wrap_once)
    assert result.verdict.is_the_crash()
    assert not result.mutated
    assert any("was sent 3 times" in fault for fault in result.faults())
